"""The program that answers edgevit on a target. It is sent there as one file, and imports the standard library alone."""
