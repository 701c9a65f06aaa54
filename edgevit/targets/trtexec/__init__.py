"""trtexec, TensorRT's program: its command lines, and what its files and log lines mean. Nothing here does I/O."""
