"""edgevit: from a folder of images and a latency budget to a compact vision transformer on the device."""

__version__ = "0.1.0"
