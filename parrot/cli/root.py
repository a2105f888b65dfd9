"""The root command: names and one-line helps of all commands; a command's module is loaded when it runs."""

import importlib
from collections.abc import Mapping, Sequence

import click

from parrot import __version__
from parrot.cli.failures import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    Invocation,
    first_cause,
    report,
    report_unexpected,
)
from parrot.errors import ParrotError


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed; their helps are listed without that."""

    def __init__(self, *, members: Mapping[str, tuple[str, str]], **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]
        self.members = members

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        """The members, in their own order."""
        return list(self.members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command that `cmd_name` stands for."""
        if cmd_name not in self.members:
            return None
        module, _, attribute = self.members[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of members from their one-line helps."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.members.items()])


COMMANDS = {
    "demo": (
        "parrot.cli.demo.command:demo",
        "Watch three applications run, and what serving them whole saves.",
    ),
    "serve": ("parrot.cli.serve:serve", "Serve applications over HTTP."),
    "run": ("parrot.cli.run:run", "Run a Python program with a service inside this process."),
    "ps": ("parrot.cli.inspect:ps", "Show engines and running calls."),
    "sessions": ("parrot.cli.inspect:sessions", "List, show, draw, cancel and delete sessions."),
    "functions": ("parrot.cli.functions:functions", "List, show, call and push registered functions."),
    "mcp": ("parrot.cli.mcp:mcp", "Offer registered functions as tools of the Model Context Protocol."),
    "engines": ("parrot.cli.inspect:engines", "List engines and their load."),
    "models": ("parrot.cli.models:models", "Make and list model directories."),
    "bench": ("parrot.cli.bench:bench", "Measure Parrot on this machine, beside other servers."),
    "sim": ("parrot.cli.sim:sim", "Simulate applications, policies and the paper's figures."),
    "doctor": ("parrot.cli.doctor:doctor", "Check this machine and installation."),
    "keys": ("parrot.cli.keys:keys", "Make, list and revoke API keys; set tenants' limits."),
    "config": ("parrot.cli.config:config", "Show settings and where they come from."),
    "completion": ("parrot.cli.completion:completion", "Print a shell's completion script."),
    "version": ("parrot.cli.version:version", "Print versions."),
}


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if isinstance(ctx.obj, Invocation):
        ctx.obj.debug = value


@click.group(
    cls=LazyGroup,
    members=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings: parrot.toml or PARROT_* variables; `parrot config show --origin` says which hold.",
)
@click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    envvar="PARROT_DEBUG",
    callback=_set_debug,
    help="Show tracebacks and debug logs.",
)
@click.version_option(__version__, "-V", "--version", prog_name="parrot", message="%(prog)s %(version)s")
def cli() -> None:
    """Parrot: a server for LLM applications."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the result is the process's exit status.

    0 done, 1 failed while running, 2 wrong usage or settings, 3 no service reached, 130 interrupted.
    """
    invocation = Invocation()
    with report_unexpected(invocation):
        try:
            outcome = cli.main(
                args=list(arguments), prog_name="parrot", standalone_mode=False, obj=invocation
            )
        except click.UsageError as error:
            error.show()
            return EXIT_USAGE
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            return EXIT_INTERRUPTED
        except ParrotError as error:
            return report(error, invocation)
        except BaseExceptionGroup as group:
            first = first_cause(group)
            if first is None:
                raise
            return report(first, invocation)
    return outcome if isinstance(outcome, int) else 0
