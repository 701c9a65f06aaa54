"""A model over a data set, without training."""
