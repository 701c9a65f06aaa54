"""Smaller models from larger ones: what to remove, how much, and how it is measured."""
