"""The program that runs on a target. It imports the standard library alone."""
