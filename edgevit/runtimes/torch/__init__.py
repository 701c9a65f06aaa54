"""PyTorch on the CPU, and on a CUDA device if there is one."""
