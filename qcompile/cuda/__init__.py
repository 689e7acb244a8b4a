"""Running programs on NVIDIA GPUs: the driver's API and nothing else; neither torch nor tvm."""
