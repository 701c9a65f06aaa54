"""The program that answers edgevit on a target. It goes there as one file, in the standard library alone."""
