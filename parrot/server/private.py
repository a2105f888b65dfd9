"""Files that hold secrets: who may read and change them, and how they are written."""

import os
import secrets
import stat
from pathlib import Path

from parrot.errors import ConfigError

PRIVATE = 0o600
MIN_SECRET_CHARS = 32


def require_private(path: Path, *, what: str) -> None:
    """See that only the file's owner can change it, that strangers cannot read it, and that the owner is
    this process's user or root. A group may read it, as mounted secrets often allow.

    Raises:
        ConfigError: it is not so, or there is no such file; the message says how to mend it.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}", param=str(path)) from None
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{what} {path} is not a file", param=str(path))
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{what} {path} belongs to another user", param=str(path))
    if found.st_mode & 0o027:
        raise ConfigError(f"{what} {path} is open to others; run: chmod 600 {path}", param=str(path))


def write_private(path: Path, data: bytes) -> None:
    """Put a file in place, whole or not at all, for its owner only.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
        with os.fdopen(file, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def read_or_make_secret(path: Path) -> str:
    """The secret in a file, which is made when there is none: 64 hexadecimal digits nobody can guess.

    Raises:
        ConfigError: the file is open to others, too short, or cannot be read or made.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    except FileExistsError:
        require_private(path, what="the secret")
    except OSError as error:
        raise ConfigError(f"the secret {path} cannot be made: {error.strerror}", param=str(path)) from None
    else:
        with os.fdopen(file, "w") as out:
            out.write(secrets.token_hex(32) + "\n")
            out.flush()
            os.fsync(out.fileno())
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"the secret {path} cannot be read", param=str(path)) from None
    if len(text) < MIN_SECRET_CHARS:
        message = f"the secret {path} is shorter than {MIN_SECRET_CHARS} characters; remove it for a new one"
        raise ConfigError(message, param=str(path))
    return text
