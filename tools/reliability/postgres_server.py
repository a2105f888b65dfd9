"""A private PostgreSQL server from the machine's own packages, on 127.0.0.1, gone when it is closed."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

PASSWORD = "swordfish"
USER = "parrot"
ACCOUNTS = ("postgres", "nobody")
"""Accounts of the operating system to run it under when this process is root's, which it refuses."""
START_TIMEOUT_S = 30.0


def find_binaries() -> Path | None:
    """The directory of the newest server installed; None when there is none."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]), reverse=True
    )
    initdb = found[0] if found else shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def missing() -> str | None:
    """Why no server can be run here; None when one can."""
    if find_binaries() is None:
        return "no PostgreSQL server is installed"
    if os.getuid() == 0 and _account() is None:
        return "there is no account to run PostgreSQL under"
    return None


class PostgresServer:
    """A server with one user and one database; every schema in it can be a store."""

    def __init__(self) -> None:
        binaries = find_binaries()
        assert binaries is not None, "see missing()"
        self._binaries = binaries
        self._directory = Path(tempfile.mkdtemp(prefix="parrot-pg-"))
        self._account = _account() if os.getuid() == 0 else None
        if self._account is not None:
            os.chown(self._directory, self._account.pw_uid, self._account.pw_gid)
        self._data = self._directory / "data"
        self._num_schemas = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        password_file = self._directory / "password"
        password_file.write_text(PASSWORD)
        self._run(
            "initdb", "-D", str(self._data), "-U", USER, "--auth=scram-sha-256", f"--pwfile={password_file}",
            "--encoding=UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._directory} "
            "-c fsync=off -c max_connections=50 -c shared_buffers=16MB"
        )
        log = str(self._directory / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self._data), "-l", log, "-o", options)

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; `immediate` is as a crash, without a word to its clients."""
        self._run("pg_ctl", "stop", "-w", "-D", str(self._data), "-m", mode)

    def url(self, schema: str | None = None, *, password: str = PASSWORD) -> str:
        """The address of a schema as a user writes it; without a name, of a new one."""
        if schema is None:
            self._num_schemas += 1
            schema = f"store_{self._num_schemas}"
            self.execute(f'CREATE SCHEMA "{schema}"')
        return (
            f"postgresql+asyncpg://{USER}:{password}@127.0.0.1:{self.port}/postgres"
            f"?options=-csearch_path%3D{schema}"
        )

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement as the owner; gives the rows, if it has any."""
        import psycopg

        address = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Stop it and remove everything of it."""
        self._run("pg_ctl", "stop", "-D", str(self._data), "-m", "immediate", check=False)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        account = self._account
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
        output = (self._directory / "output").open("w+")
        with output:
            done = subprocess.run(
                [str(self._binaries / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=self._directory,
                timeout=START_TIMEOUT_S,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
                **user,  # type: ignore[call-overload]
            )
            if check and done.returncode:
                output.seek(0)
                raise RuntimeError(f"{program}: {output.read()}")


def _account() -> pwd.struct_passwd | None:
    for name in ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None
