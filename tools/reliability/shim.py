"""Faults of disk and clock for a service under test, through a small library loaded before the C library."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


class Shim:
    """The library, built once, and the directory whose files say what it does."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        assert compiler is not None, "see missing()"
        self._library = directory / "shim.so"
        self._orders = directory / "orders"
        self._orders.mkdir()
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", str(self._library), str(SOURCE), "-ldl"],
            check=True,
            capture_output=True,
        )

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to be under it."""
        return {"LD_PRELOAD": str(self._library), "FAULT_SHIM": str(self._orders)}

    def order(self, name: str, value: int) -> None:
        """Have `fsync` or `pwrite` fail with an errno, or `clock` be off by seconds."""
        scratch = self._orders / f".{name}"
        scratch.write_text(str(value))
        scratch.rename(self._orders / name)

    def relent(self, name: str) -> None:
        """Take an order back."""
        (self._orders / name).unlink(missing_ok=True)


def missing() -> str | None:
    """Why it cannot be used here; None when it can."""
    return None if shutil.which("cc") else "no C compiler is installed"
