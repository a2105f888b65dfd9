"""Where Parrot keeps things of its own, by the operating system's customs."""

from pathlib import Path

import platformdirs


def data_directory() -> Path:
    """Where `parrot serve` keeps its store unless told otherwise."""
    return platformdirs.user_data_path("parrot")


def default_store() -> Path:
    """The store's file unless told otherwise."""
    return data_directory() / "parrot.db"


def model_cache() -> Path:
    """Where models that Parrot makes by itself are kept."""
    return platformdirs.user_cache_path("parrot") / "models"
