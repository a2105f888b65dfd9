"""Write the reference pages that are made from the code: `python tools/write_reference.py [--check]`.

With `--check` nothing is written; exit status 1 when a page is not what the code says.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from reference.commands import commands_page
from reference.errors import errors_page
from reference.schema import schema_page
from reference.sdk import sdk_page

ROOT = Path(__file__).resolve().parent.parent

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/cli.md": commands_page,
    "docs/reference/errors.md": errors_page,
    "docs/reference/http-schema.md": schema_page,
    "docs/reference/sdk.md": sdk_page,
}


def main(*, check: bool) -> int:
    """Write the pages, or say which are not current; returns the exit status."""
    stale = []
    for name, make in PAGES.items():
        path = ROOT / name
        text = make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'not current; run python tools/write_reference.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
