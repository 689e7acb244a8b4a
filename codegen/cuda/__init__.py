"""GPUs of NVIDIA: a lowered graph becomes CUDA C, and how its kernels are launched."""
