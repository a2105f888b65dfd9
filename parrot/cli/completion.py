"""`parrot completion`."""

import click
from click.shell_completion import get_completion_class

HOW = {
    "bash": 'eval "$(parrot completion bash)"     # in ~/.bashrc',
    "zsh": 'eval "$(parrot completion zsh)"      # in ~/.zshrc',
    "fish": "parrot completion fish | source      # in ~/.config/fish/config.fish",
}


@click.command(epilog="Put this line into your shell's start-up file:  " + "  ·  ".join(HOW.values()))
@click.argument("shell", type=click.Choice(sorted(HOW)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(ctx.find_root().command, {}, "parrot", "_PARROT_COMPLETE").source())
