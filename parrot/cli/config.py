"""`parrot config`: settings, and where they come from."""

import click

from parrot.cli.output import json_option, say, write_json


@click.group()
def config() -> None:
    """Settings."""


@config.command("show")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--changed", is_flag=True, help="Only what is not at its default.")
@json_option
def config_show(*, origin: bool, changed: bool, as_json: bool) -> None:
    """Print every setting as it holds here; secrets are masked."""
    from parrot.config import load_settings
    from parrot.config.directories import serve_defaults
    from parrot.config.reference import flatten

    loaded = load_settings(defaults=serve_defaults())
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    rows = [
        (key, value, loaded.origins.get(key, "default"))
        for key, value in flatten(loaded.settings).items()
        if not changed or key in loaded.origins
    ]
    if as_json:
        write_json(
            {key: {"value": value, "origin": source} if origin else value for key, value, source in rows}
        )
        return
    width = max((len(key) for key, _, _ in rows), default=0)
    for key, value, source in rows:
        line = f"{key:<{width}} = {_toml(value)}"
        click.echo(f"{line:<{width + 28}}  # {source}" if origin else line)


@config.command("docs")
def config_docs() -> None:
    """Print the reference of all settings as Markdown."""
    from parrot.config.reference import reference

    click.echo(reference(), nl=False)


def _toml(value: object) -> str:
    if value is None:
        return "(not set)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items() if item is not None) + "}"
        )
    return f"[{', '.join(_toml(item) for item in value)}]" if isinstance(value, list | tuple) else str(value)
