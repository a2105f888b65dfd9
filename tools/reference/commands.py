"""The page of commands."""

import inspect
from collections.abc import Iterator

import click

from parrot.cli.root import cli
from reference import MADE, cell

INTRODUCTION = """\
Data goes to standard output, everything for people to standard error. Exit status 0 means done, 1 that it
failed, 2 that it was asked wrongly or is configured wrongly, 3 that no service answers, 130 that it was
interrupted. Errors are [numbered](errors.md). Settings that commands share are
[in files and in the environment](../config.md)."""


def commands_page() -> str:
    """Every command with its arguments and options."""
    lines = ["# Commands", "", MADE, "", INTRODUCTION]
    for context in _commands(click.Context(cli, info_name="parrot")):
        lines += ["", *_command_lines(context)]
    return "\n".join(lines) + "\n"


def _commands(context: click.Context) -> Iterator[click.Context]:
    """A command, and those below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                yield from _commands(click.Context(command, info_name=name, parent=context))


def _command_lines(context: click.Context) -> Iterator[str]:
    command = context.command
    path = context.command_path
    yield f"{'#' * min(4, 2 + path.count(' '))} {path}"
    yield ""
    yield "```text"
    yield " ".join([path, *command.collect_usage_pieces(context)])
    yield "```"
    text = inspect.cleandoc(command.help or "").partition("\f")[0]
    if text:
        yield ""
        yield text.replace("<", "&lt;")
    options = [
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts
    ]
    rows = [record for record in options if record is not None]
    if rows:
        yield ""
        yield "| option | does |"
        yield "|---|---|"
        yield from (f"| `{cell(names)}` | {cell(meaning)} |" for names, meaning in rows)
