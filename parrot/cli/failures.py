"""What a user sees when something fails: the error with its number, why, and what to do."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import click

from parrot.errors import CODES, ConfigError, ParrotError, UnreachableError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

FIXES = {
    "unreachable": "start one with `parrot serve --model DIR`, or name another with --url",
    "bad_answer": "check the address given with --url or PARROT_URL",
    "unauthenticated": "put the key into PARROT_API_KEY",
    "port_in_use": "choose another with --port, or stop what listens there",
    "no_auth_listen": "make a key with `parrot keys new TENANT`, or listen on 127.0.0.1",
    "bad_config": "`parrot config show --origin` lists every setting and where it comes from",
    "bad_model": "name a Hugging Face model directory, or make one: parrot models init small DIR",
    "store_locked": "stop the other service, or name another file with --db",
    "store_corrupt": "restore the file from a backup, or move it away to begin anew",
    "store_newer": "update Parrot, or name another file with --db",
    "store_full": "free space on the store's disk, or name another file with --db",
    "no_route": "name the service by its address without /v1, with --url or PARROT_URL",
    "not_found": "`parrot sessions ls` lists what there is",
    "model_not_found": "`parrot engines ls` lists the models served",
    "engine_unavailable": "wait until an engine has started: `parrot engines ls` shows how far it is",
}
"""What a user can do about an error, for codes whose message does not say it."""


@dataclass(slots=True, kw_only=True)
class Invocation:
    """What the options of one command line ask for in case of failure."""

    debug: bool = False
    json: bool = False


def report(error: ParrotError, invocation: Invocation) -> int:
    """Write an error to standard error (as JSON to standard output with `--json`); gives the exit status."""
    if invocation.debug:
        traceback.print_exception(error)
    body = {"code": error.code, "number": error.number, "message": error.message, "param": error.param}
    fix = error.data.get("fix") or FIXES.get(error.code)
    known = CODES.get(error.code)
    if invocation.json:
        click.echo(json.dumps({"error": {**body, "fix": fix}}))
    click.echo(f"{click.style(f'error[{error.number}]', fg='red', bold=True)}: {error.message}", err=True)
    if known and error.code != "bad_config" and known.meaning != error.message:
        click.echo(f"  why: {known.meaning}", err=True)
    if fix:
        lines = str(fix).splitlines()
        click.echo(f"  fix: {lines[0]}", err=True)
        for line in lines[1:]:
            click.echo(f"       {line}", err=True)
    return exit_status(error)


def exit_status(error: ParrotError) -> int:
    """The process's exit status for an error."""
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    return EXIT_UNREACHABLE if isinstance(error, UnreachableError) else EXIT_FAILED


def first_cause(group: BaseExceptionGroup[BaseException]) -> ParrotError | None:
    """The first of our errors among those that tasks raised together; None when there is a fault besides."""
    ours, others = group.split(ParrotError)
    if others is not None or ours is None:
        return None
    error: BaseException = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, ParrotError) else None


@contextmanager
def report_unexpected(invocation: Invocation) -> Iterator[None]:
    """Within it, a fault of ours ends the process with a few lines, not a traceback, unless debugging."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if invocation.debug:
            before(kind, error, trace)
            return
        click.echo(f"error[P0001]: {kind.__name__}: {error}", err=True)
        click.echo(
            "  why: this is a fault in Parrot\n  fix: run again with --debug and report what it says",
            err=True,
        )

    sys.excepthook = hook
    yield
    sys.excepthook = before
