"""Chat-style functions: messages whose contents are templates."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message of a semantic function; the service puts the model's own chat format around it."""

    role: Role
    content: str
    """A template: `{{name}}` stands for a parameter."""


def system(content: str) -> Message:
    """What the model should know and how it should behave."""
    return Message("system", content)


def user(content: str) -> Message:
    """What a person says."""
    return Message("user", content)


def assistant(content: str) -> Message:
    """What the model says; its output placeholders stand here."""
    return Message("assistant", content)
