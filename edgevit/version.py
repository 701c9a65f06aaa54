"""The version of edgevit."""

__version__ = "0.1.0"
