"""Our own engine, on PyTorch."""
