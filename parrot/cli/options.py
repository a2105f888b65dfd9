"""Options that several commands have. Light: a command's help needs nothing of the service."""

from collections.abc import Callable
from typing import Any

import click

ENGINE_KINDS = ("scripted", "torch")


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--model` and `--engine`, for a service inside this process."""
    with_engine = click.option(
        "--engine", type=click.Choice(ENGINE_KINDS), help="What runs the model [torch]."
    )(command)
    return click.option(
        "--model", metavar="DIR", help="A model directory or Hugging Face name [a small random model]."
    )(with_engine)
