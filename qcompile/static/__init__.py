"""What can be said of CUDA machine code without running it."""
