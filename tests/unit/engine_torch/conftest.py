"""Fixtures of this folder."""

from torch_driver import driver, model_dirs, plain_dir, start

__all__ = ["driver", "model_dirs", "plain_dir", "start"]
