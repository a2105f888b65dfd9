"""Parrot: a server for LLM applications.

The names below are what applications use; each is loaded when it is first asked for, so that `import parrot`
stays quick.
"""

import importlib
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from parrot.sdk import embedding as _embedding

if TYPE_CHECKING:
    from parrot.errors import CallError as CallError
    from parrot.errors import ParrotError as ParrotError
    from parrot.errors import SemanticFunctionError as SemanticFunctionError
    from parrot.errors import UnreachableError as UnreachableError
    from parrot.errors import UsageError as UsageError
    from parrot.errors import WaitTimeoutError as WaitTimeoutError
    from parrot.sdk.blocking import SyncSession as SyncSession
    from parrot.sdk.blocking import SyncVariable as SyncVariable
    from parrot.sdk.blocking import connect_sync as connect_sync
    from parrot.sdk.connect import connect as connect
    from parrot.sdk.function import SemanticFunction as SemanticFunction
    from parrot.sdk.function import semantic_function as semantic_function
    from parrot.sdk.markers import Input as Input
    from parrot.sdk.markers import Join as Join
    from parrot.sdk.markers import Output as Output
    from parrot.sdk.markers import Pattern as Pattern
    from parrot.sdk.markers import Schema as Schema
    from parrot.sdk.messages import Message as Message
    from parrot.sdk.messages import assistant as assistant
    from parrot.sdk.messages import system as system
    from parrot.sdk.messages import user as user
    from parrot.sdk.native import NativeFunction as NativeFunction
    from parrot.sdk.native import native_function as native_function
    from parrot.sdk.session import Session as Session
    from parrot.sdk.variable import SemanticVariable as SemanticVariable
    from parrot.types.program import JsonTransform as JsonTransform
    from parrot.types.program import RegexTransform as RegexTransform
    from parrot.types.program import StripTransform as StripTransform
    from parrot.types.program import TemplateTransform as TemplateTransform
    from parrot.types.sampling import Sampling as Sampling

__version__ = "0.1.0"

_EXPORTS = {
    "CallError": "parrot.errors",
    "Input": "parrot.sdk.markers",
    "Join": "parrot.sdk.markers",
    "JsonTransform": "parrot.types.program",
    "Message": "parrot.sdk.messages",
    "NativeFunction": "parrot.sdk.native",
    "Output": "parrot.sdk.markers",
    "ParrotError": "parrot.errors",
    "Pattern": "parrot.sdk.markers",
    "RegexTransform": "parrot.types.program",
    "Sampling": "parrot.types.sampling",
    "Schema": "parrot.sdk.markers",
    "SemanticFunction": "parrot.sdk.function",
    "SemanticFunctionError": "parrot.errors",
    "SemanticVariable": "parrot.sdk.variable",
    "Session": "parrot.sdk.session",
    "StripTransform": "parrot.types.program",
    "SyncSession": "parrot.sdk.blocking",
    "SyncVariable": "parrot.sdk.blocking",
    "TemplateTransform": "parrot.types.program",
    "UnreachableError": "parrot.errors",
    "UsageError": "parrot.errors",
    "WaitTimeoutError": "parrot.errors",
    "assistant": "parrot.sdk.messages",
    "connect": "parrot.sdk.connect",
    "connect_sync": "parrot.sdk.blocking",
    "native_function": "parrot.sdk.native",
    "semantic_function": "parrot.sdk.function",
    "system": "parrot.sdk.messages",
    "user": "parrot.sdk.messages",
}

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> object:
    """Load one of the exported names (PEP 562)."""
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'parrot' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The exported names, loaded or not."""
    return sorted({*globals(), *_EXPORTS})


def _start_embedded(
    *, model: str | None, engine: str | None
) -> AbstractAsyncContextManager[_embedding.ASGIApp]:
    """Loaded by name: modules below the assembly import this one."""
    start: _embedding.StartEmbedded = importlib.import_module("parrot.assembly").embedded_app
    return start(model=model, engine=engine)


_embedding.provide(_start_embedded)
