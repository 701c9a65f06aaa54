"""PyTorch on the CPU, and on a CUDA device where there is one."""
