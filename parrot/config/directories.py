"""Where Parrot keeps things of its own, by the operating system's customs."""

from pathlib import Path

import platformdirs


def data_directory() -> Path:
    """Where `parrot serve` keeps its store unless told otherwise."""
    return platformdirs.user_data_path("parrot")


def default_store() -> Path:
    """The store's file unless told otherwise."""
    return data_directory() / "parrot.db"


def default_keys() -> Path:
    """The file that `parrot keys` keeps unless told otherwise."""
    return data_directory() / "keys.json"


def serve_defaults() -> dict[str, object]:
    """What `parrot serve` prefers to the built-in defaults, by dotted key."""
    keys = default_keys()
    return {"store.path": default_store(), **({"server.keys_file": keys} if keys.is_file() else {})}


def model_cache() -> Path:
    """Where models that Parrot makes by itself are kept."""
    return platformdirs.user_cache_path("parrot") / "models"
