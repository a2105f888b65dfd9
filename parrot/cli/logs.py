"""Logs of the commands that serve: one line each on standard error."""

import asyncio
import logging
import sys
from typing import Any

import structlog

from parrot.errors import fault_trace

logger = logging.getLogger(__name__)


def _render_fault(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Put an exception's kinds and places into a line in place of the exception, whose message may hold a
    prompt.
    """
    told = event.pop("exc_info", None)
    error = sys.exc_info()[1] if told is True else told[1] if isinstance(told, tuple) else told
    if isinstance(error, BaseException):
        event["trace"] = fault_trace(error)
    return event


def log_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's handler of what nobody awaited; its own would write messages and the values in them."""
    error = context.get("exception")
    logger.error("%s\n%s", context["message"], fault_trace(error) if isinstance(error, BaseException) else "")


def configure_logs(level: str) -> None:
    """Send the logs of Parrot and of the libraries it uses to standard error, from `level` up.

    Exceptions are told without their messages, as is one that ends the process. Lines are coloured on a
    terminal and `key=value` elsewhere. Prompts and values are never logged.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _render_fault,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "logger", "event"])
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    sys.excepthook = lambda _kind, error, _trace: logger.critical("the process ends\n%s", fault_trace(error))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("parrot").setLevel(level.upper())
