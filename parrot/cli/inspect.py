"""`parrot ps`, `parrot sessions`, `parrot engines`: what a running service is doing."""

from datetime import UTC, datetime

import click

from parrot.cli.client import ServiceClient, service_option
from parrot.cli.explain import explain_lines
from parrot.cli.graph import graph_lines
from parrot.cli.output import json_option, say, seconds, write_json, write_table
from parrot.cli.trace import export
from parrot.wire.answers import CancelAnswer, EngineList, GraphView, SessionList, SessionView

MAX_SESSIONS = 100


@click.command()
@service_option
@json_option
def ps(service: ServiceClient, *, as_json: bool) -> None:
    """Show engines and the calls that run or wait for one."""
    found = service.get(EngineList, "/v1/engines")
    busy = [
        service.get(GraphView, f"/v1/sessions/{session.session_id}/graph")
        for session in service.get(SessionList, "/v1/sessions", limit=MAX_SESSIONS).sessions
        if session.calls.running or session.calls.ready
    ]
    calls = [
        (graph.session_id, call)
        for graph in busy
        for call in graph.calls
        if call.state in ("running", "ready")
    ]
    if as_json:
        write_json(
            {
                "engines": [engine.model_dump(mode="json") for engine in found.engines],
                "calls": [{"session_id": sid, **call.model_dump(mode="json")} for sid, call in calls],
            }
        )
        return
    _write_engines(found)
    click.echo()
    write_table(
        ["CALL", "STATE", "STAGE", "ENGINE", "TOKENS", "SESSION"],
        [(call.name, call.state, call.stage, call.engine_id, call.tokens.output, sid) for sid, call in calls],
    )


@click.group()
def engines() -> None:
    """Engines of a running service."""


@engines.command("ls")
@service_option
@json_option
def engines_ls(service: ServiceClient, *, as_json: bool) -> None:
    """List engines and their load."""
    found = service.get(EngineList, "/v1/engines")
    if as_json:
        write_json(found.model_dump(mode="json"))
    else:
        _write_engines(found)


@click.group()
def sessions() -> None:
    """Sessions of a running service."""


@sessions.command("ls")
@click.option("--limit", default=MAX_SESSIONS, show_default=True, type=click.IntRange(1, 1000))
@service_option
@json_option
def sessions_ls(service: ServiceClient, *, limit: int, as_json: bool) -> None:
    """List sessions, newest first."""
    found = service.get(SessionList, "/v1/sessions", limit=limit)
    if as_json:
        write_json(found.model_dump(mode="json"))
        return
    write_table(
        ["SESSION", "NAME", "STATE", "CREATED", "DONE", "RUNNING", "WAITING", "FAILED"],
        [
            (
                session.session_id,
                session.name,
                session.state,
                _moment(session.created_at),
                session.calls.done,
                session.calls.running,
                session.calls.waiting + session.calls.ready,
                session.calls.failed + session.calls.cancelled,
            )
            for session in found.sessions
        ],
    )


@sessions.command("show")
@click.argument("session_id")
@service_option
@json_option
def sessions_show(service: ServiceClient, session_id: str, *, as_json: bool) -> None:
    """Show one session."""
    session = service.get(SessionView, f"/v1/sessions/{session_id}")
    if as_json:
        write_json(session.model_dump(mode="json"))
        return
    calls = ", ".join(f"{number} {state}" for state, number in session.calls.model_dump().items() if number)
    facts = {
        "session": session.session_id,
        "name": session.name or "-",
        "state": session.state,
        "created": _moment(session.created_at),
        "objective": session.objective or "-",
        "deadline": seconds(session.deadline_s) if session.deadline_s is not None else "-",
        "calls": calls or "none",
        "variables": f"{session.num_variables:,}",
        **{f"metadata.{key}": value for key, value in session.metadata.items()},
    }
    for name, value in facts.items():
        click.echo(f"{name:<12}{value}")


@sessions.command("graph")
@click.argument("session_id")
@click.option("--all", "everything", is_flag=True, help="Show every call of a stage, however many.")
@click.option("--explain", is_flag=True, help="Say why each call ran where and when it did.")
@service_option
@json_option
def sessions_graph(
    service: ServiceClient, session_id: str, *, everything: bool, explain: bool, as_json: bool
) -> None:
    """Draw a session's application graph."""
    graph = service.get(GraphView, f"/v1/sessions/{session_id}/graph")
    if as_json:
        write_json(graph.model_dump(mode="json"))
        return
    lines = explain_lines if explain else graph_lines
    for line in lines(graph, max_calls=len(graph.calls)) if everything else lines(graph):
        click.echo(line)


sessions.add_command(export)


@sessions.command("cancel")
@click.argument("session_id")
@click.option(
    "--call", "calls", multiple=True, help="Cancel this call and what depends on it only (repeatable)."
)
@click.option(
    "--variable", "variables", multiple=True, help="Cancel what produces this variable (repeatable)."
)
@service_option
@json_option
def sessions_cancel(
    service: ServiceClient,
    session_id: str,
    *,
    calls: tuple[str, ...],
    variables: tuple[str, ...],
    as_json: bool,
) -> None:
    """Cancel a session's calls: all, or those named and what depends on them."""
    body: dict[str, object] = {}
    if calls:
        body["calls"] = calls
    if variables:
        body["variables"] = variables
    answer = service.post(CancelAnswer, f"/v1/sessions/{session_id}/cancel", body)
    if as_json:
        write_json(answer.model_dump(mode="json"))
        return
    for call_id in answer.cancelled:
        click.echo(call_id)
    say(f"{len(answer.cancelled)} calls cancelled")


@sessions.command("delete")
@click.argument("session_ids", nargs=-1, required=True, metavar="SESSION_ID…")
@service_option
def sessions_delete(service: ServiceClient, session_ids: tuple[str, ...]) -> None:
    """Delete sessions: what runs of them is cancelled, and what they hold is freed and forgotten."""
    for session_id in session_ids:
        service.delete(f"/v1/sessions/{session_id}")
        click.echo(session_id)


def _write_engines(found: EngineList) -> None:
    told = found.has_loads
    write_table(
        [
            "ENGINE",
            "MODEL",
            "KIND",
            "DEVICE",
            "STATE",
            "RUNNING",
            "WAITING",
            "KV USED",
            "KV CACHED",
            "KV TOKENS",
        ],
        [
            (
                engine.engine_id,
                engine.model,
                engine.kind,
                engine.device,
                engine.state,
                engine.num_running if told else "-",
                engine.num_waiting if told else "-",
                _share(engine.num_owned_blocks, engine.num_blocks if told else 0),
                _share(engine.num_cached_blocks, engine.num_blocks if told else 0),
                engine.kv_capacity_tokens,
            )
            for engine in found.engines
        ],
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _moment(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
