"""The system's OpenSSH: its command line, and what its failures mean."""
