"""What runs a model: one room a runtime, with the same file names, behind one `Session`."""
