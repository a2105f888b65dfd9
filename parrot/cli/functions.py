"""`parrot functions`: the semantic functions that a running service keeps."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from parrot.cli.client import ServiceClient, service_option
from parrot.cli.output import json_option, say, write_json, write_table
from parrot.wire.answers import CallsAccepted, SessionView, VariableView
from parrot.wire.errors import from_body
from parrot.wire.functions import FunctionList, FunctionView, WarmAnswer

WAIT_S = 20.0
"""One long poll; shorter than the client waits for an answer."""
PAGE = 100


@click.group()
def functions() -> None:
    """Semantic functions that a running service keeps."""


@functions.command("ls")
@service_option
@json_option
def functions_ls(service: ServiceClient, *, as_json: bool) -> None:
    """List functions by name, each with its latest version."""
    found: list[FunctionView] = []
    after: str | None = None
    while True:
        page = service.get(FunctionList, "/v1/functions", limit=PAGE, after=after)
        found += page.functions
        after = page.next
        if after is None:
            break
    if as_json:
        write_json({"functions": [function.model_dump(mode="json") for function in found]})
        return
    write_table(
        ["FUNCTION", "VERSION", "INPUTS", "OUTPUTS", "PREFIX TOKENS", "WARM", "DESCRIPTION"],
        [
            (
                each.name,
                each.version,
                ", ".join(each.inputs),
                ", ".join(each.outputs),
                each.prefix_tokens,
                each.warm,
                (each.description or "").partition("\n")[0][:60],
            )
            for each in found
        ],
    )


@functions.command("show")
@click.argument("function", metavar="NAME[@VERSION]")
@service_option
@json_option
def functions_show(service: ServiceClient, function: str, *, as_json: bool) -> None:
    """Show one function: its inputs, its outputs and its prompt."""
    view = service.get(FunctionView, _path(function))
    if as_json:
        write_json(view.model_dump(mode="json"))
        return
    facts = {
        "function": f"{view.name}@{view.version}",
        "versions": ", ".join(map(str, view.versions)),
        "model": view.model or "-",
        "inputs": ", ".join(
            name if known.default is None else f"{name}={known.default!r}"
            for name, known in view.inputs.items()
        ),
        "outputs": ", ".join(view.outputs),
        "prefix": "-" if view.prefix_tokens is None else f"{view.prefix_tokens:,} tokens",
        "warm": "yes" if view.warm else "no",
    }
    for name, value in facts.items():
        click.echo(f"{name:<12}{value}")
    if view.description:
        click.echo(f"\n{view.description}")
    click.echo()
    for message in view.messages or ():
        click.echo(f"[{message.role}]\n{message.content}")
    if view.template is not None:
        click.echo(view.template)


@functions.command("call")
@click.argument("function", metavar="NAME[@VERSION]")
@click.argument("inputs", nargs=-1, metavar="[INPUT=TEXT | INPUT=@FILE]…")
@click.option("--max-tokens", type=click.IntRange(1), help="Bound every output to so many tokens.")
@service_option
@json_option
def functions_call(
    service: ServiceClient, function: str, inputs: tuple[str, ...], max_tokens: int | None, *, as_json: bool
) -> None:
    """Call a function once and print its outputs. INPUT=@FILE takes a file's text, INPUT=@@… a text that
    begins with @.
    """
    view = service.get(FunctionView, _path(function))
    parameters: dict[str, object] = dict(_input(text) for text in inputs)
    if max_tokens is not None:
        bound = {"output": {"sampling": {"max_tokens": max_tokens}}}
        parameters |= dict.fromkeys(view.outputs, bound)
    call = {"function": f"{view.name}@{view.version}", "parameters": parameters}
    session = service.post(SessionView, "/v1/sessions", {"name": f"functions call {view.name}"})
    path = f"/v1/sessions/{session.session_id}"
    try:
        accepted = service.post(CallsAccepted, f"{path}/calls", {"calls": [call]})
        made = accepted.calls[0].outputs
        values = {
            name: _value(service, f"{path}/variables/{made[name].variable_id}") for name in view.outputs
        }
    finally:
        service.delete(path)
    if as_json:
        write_json({"function": call["function"], "outputs": values})
        return
    for name, value in values.items():
        if len(values) > 1:
            say(f"{name}:")
        click.echo(value)


@functions.command("push")
@click.argument("module", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--only", multiple=True, metavar="NAME", help="Push this function only (repeatable).")
@click.option("--warm", is_flag=True, help="Have the constant beginnings filled on every engine.")
@service_option
@json_option
def functions_push(
    service: ServiceClient, module: Path, *, only: tuple[str, ...], warm: bool, as_json: bool
) -> None:
    """Register the semantic functions of a Python file. What has not changed gets no new version."""
    from parrot.sdk.registered import function_spec

    found = _declared(module)
    missing = [name for name in only if name not in found]
    if missing or not found:
        raise click.UsageError(f"{module} has no semantic function {', '.join(missing)}".rstrip())
    specs = {
        name: function_spec(function, warm=warm)
        for name, function in found.items()
        if name in (only or found)
    }
    pushed: list[FunctionView] = []
    for name, spec in specs.items():
        body = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        pushed.append(service.put(FunctionView, _path(name), body))
    if as_json:
        write_json({"functions": [view.model_dump(mode="json") for view in pushed]})
        return
    write_table(
        ["FUNCTION", "VERSION", "PREFIX TOKENS"],
        [(each.name, each.version, each.prefix_tokens) for each in pushed],
    )


@functions.command("warm")
@click.argument("function", metavar="NAME[@VERSION]")
@service_option
@json_option
def functions_warm(service: ServiceClient, function: str, *, as_json: bool) -> None:
    """Fill a function's constant beginning on every engine of its model."""
    answer = service.post(WarmAnswer, f"{_path(function)}/warm", {})
    if as_json:
        write_json(answer.model_dump(mode="json"))
        return
    write_table(
        ["ENGINE", "HELD TOKENS", "FILLED NOW"],
        [(each.engine_id, each.held_tokens, each.num_filled_tokens) for each in answer.engines],
    )


@functions.command("rm")
@click.argument("function", metavar="NAME")
@service_option
def functions_rm(service: ServiceClient, function: str) -> None:
    """Remove a function with all its versions."""
    service.delete(_path(function))
    say(f"{function} removed")


def _path(function: str) -> str:
    return f"/v1/functions/{quote(function, safe='@')}"


def _input(text: str) -> tuple[str, Mapping[str, str]]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"{text!r} is not INPUT=TEXT")
    if value.startswith("@@"):
        value = value[1:]
    elif value.startswith("@"):
        try:
            value = Path(value[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{value[1:]} cannot be read: {error}") from None
    return name, {"value": value}


def _value(service: ServiceClient, path: str) -> str:
    while True:
        view = service.get(VariableView, path, wait=WAIT_S, objective="latency")
        if view.error is not None:
            raise from_body(view.error)
        if view.state == "ready":
            return view.value or ""


def _declared(module: Path) -> dict[str, Any]:
    """The semantic functions that a file declares, by name."""
    from parrot.sdk.function import SemanticFunction

    found = runpy.run_path(str(module), run_name=module.stem)
    declared = [value for value in found.values() if isinstance(value, SemanticFunction)]
    return {function.plan.name: function for function in declared}
