"""Reference networks in plain torch.nn: nothing here knows of quantization."""
