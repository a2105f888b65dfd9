"""`parrot keys`: who may use the service, and what holds for each tenant."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parrot.cli.output import json_option, say, write_json, write_table

if TYPE_CHECKING:
    from parrot.server.keys import KeyFile


@click.group()
def keys() -> None:
    """API keys and tenants."""


@keys.command("new")
@click.argument("tenant")
@click.option("--admin", is_flag=True, help="An operator's key: it opens /metrics too.")
@click.option("--note", default="", metavar="TEXT", help="What the key is for.")
@click.option("--days", type=click.IntRange(min=1), metavar="N", help="It expires after so many days.")
@click.option("--entry", is_flag=True, help="Write no file; print the line for `server.keys` instead.")
@json_option
def keys_new(tenant: str, *, admin: bool, note: str, days: int | None, entry: bool, as_json: bool) -> None:
    """Make a key for TENANT. It is printed once; the service keeps only its hash.

    A service that runs knows it within a second.
    """
    from parrot.server.keys import KeyEntry, make_key, make_key_id
    from parrot.types.ids import NAME_PATTERN

    if not NAME_PATTERN.match(tenant):
        raise click.UsageError("a tenant's name is an identifier of at most 64 characters")
    key, sha256 = make_key()
    if entry:
        line = f"{tenant}:{sha256}" + (":admin" if admin else "")
        if as_json:
            write_json({"key": key, "entry": line})
            return
        say("give the key to the client as PARROT_API_KEY, and add to parrot.toml:\n")
        say(f'[server]\nkeys = ["{line}"]\n')
        click.echo(key)
        return
    now = datetime.now(UTC).replace(microsecond=0)
    made = KeyEntry(
        key_id=make_key_id(),
        tenant=tenant,
        sha256=sha256,
        admin=admin,
        note=note,
        created=now,
        expires=None if days is None else now + timedelta(days=days),
    )
    path = _change(lambda file: file.model_copy(update={"keys": (*file.keys, made)}))
    if as_json:
        write_json({"key": key, "key_id": made.key_id, "tenant": tenant, "file": str(path)})
        return
    say(f"{made.key_id} of tenant {tenant} is in {path}; give the key to the client as PARROT_API_KEY")
    click.echo(key)


@keys.command("ls")
@json_option
def keys_ls(*, as_json: bool) -> None:
    """List keys, which are named by their ids: the keys themselves are not kept."""
    from parrot.server.keys import KeyFile, read_key_file

    path = _path()
    file = read_key_file(path) if path.exists() else KeyFile()
    if as_json:
        write_json(file.model_dump(mode="json", exclude={"keys": {"__all__": {"sha256"}}}))
        return
    now = datetime.now(UTC)
    write_table(
        ["KEY", "TENANT", "STATE", "ADMIN", "CREATED", "EXPIRES", "NOTE"],
        [
            [
                entry.key_id,
                entry.tenant,
                entry.state(now),
                "yes" if entry.admin else "no",
                f"{entry.created:%Y-%m-%d}",
                "never" if entry.expires is None else f"{entry.expires:%Y-%m-%d}",
                entry.note or "-",
            ]
            for entry in file.keys
        ],
    )


@keys.command("revoke")
@click.argument("key_id")
def keys_revoke(key_id: str) -> None:
    """Revoke a key, named by its id. A service that runs knows it within a second; streams that the key
    opened end with their next heartbeat.
    """
    now = datetime.now(UTC).replace(microsecond=0)

    def revoked(file: "KeyFile") -> "KeyFile":
        if key_id not in {entry.key_id for entry in file.keys}:
            raise click.UsageError(f"no key {key_id}; `parrot keys ls` lists them")
        changed = (
            entry.model_copy(update={"revoked": now})
            if entry.key_id == key_id and not entry.revoked
            else entry
            for entry in file.keys
        )
        return file.model_copy(update={"keys": tuple(changed)})

    _change(revoked)
    say(f"{key_id} is revoked")


@keys.command("tenant")
@click.argument("tenant")
@click.option(
    "--weight", type=click.FloatRange(min=0, min_open=True, max=1000), help="Its share of busy engines."
)
@click.option(
    "--limit", "limits", metavar="NAME=NUMBER", multiple=True, help="A limit of its own; repeat it."
)
@click.option("--reset", is_flag=True, help="Forget what was set before.")
def keys_tenant(tenant: str, *, weight: float | None, limits: tuple[str, ...], reset: bool) -> None:
    """Set what holds for TENANT: its weight, and limits in place of those that hold for all."""
    from pydantic import ValidationError

    from parrot.server.keys import KeyFile, TenantEntry

    given = dict(limit.partition("=")[::2] for limit in limits)

    def changed(file: "KeyFile") -> "KeyFile":
        before = TenantEntry() if reset else file.tenants.get(tenant, TenantEntry())
        entry = {
            "weight": before.weight if weight is None else weight,
            "limits": {**before.limits, **given},
        }
        tree = {**file.model_dump(), "tenants": {**file.model_dump()["tenants"], tenant: entry}}
        try:
            return KeyFile.model_validate(tree)
        except ValidationError as error:
            raise click.UsageError(
                error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            ) from None

    path = _change(changed)
    say(f"tenant {tenant} is set in {path}")


def _path() -> Path:
    from parrot.config import load_settings
    from parrot.config.directories import default_keys

    return load_settings().settings.server.keys_file or default_keys()


def _change(change: Callable[["KeyFile"], "KeyFile"]) -> Path:
    """Change the key file, and make it if there is none; gives its path."""
    from parrot.server.keys import KeyFile, changing, read_key_file, write_key_file

    path = _path()
    with changing(path):
        write_key_file(path, change(read_key_file(path) if path.exists() else KeyFile()))
    return path
