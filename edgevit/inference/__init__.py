"""Inference over a data set."""
