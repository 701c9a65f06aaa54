"""Runtimes: one package for each, with equal file names, behind the interface `Session`."""
