"""Keep modules and functions small: `python tools/check_size.py [PATH …]`.

A module has at most `MAX_LINES` lines of code (blank lines, comments and docstrings do not count), a function
at most `MAX_STATEMENTS` statements (those of functions inside it included, docstrings not). Prints what is
over its budget, and the largest module and function when nothing is.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LINES = 450
MAX_STATEMENTS = 40
ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PATHS = ("parrot", "examples", "tools")
_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large one module or function is."""

    where: str
    """`path` or `path:line name`."""
    count: int
    limit: int
    unit: str

    def __str__(self) -> str:
        return f"{self.where}: {self.count} {self.unit} (limit {self.limit})"


def _is_docstring(node: ast.AST) -> bool:
    """Whether a statement is a bare string: a docstring, or the sentence under a field."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def code_lines(source: str) -> int:
    """The number of lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and _is_docstring(node):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def num_statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The number of statements inside a function."""
    inside = (node for statement in function.body for node in ast.walk(statement))
    return sum(1 for node in inside if isinstance(node, ast.stmt) and not _is_docstring(node))


def sizes(path: Path) -> Iterator[Size]:
    """The size of a module, then of each function in it."""
    name = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    source = path.read_text(encoding="utf-8")
    yield Size(where=name, count=code_lines(source), limit=MAX_LINES, unit="lines of code")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{name}:{node.lineno} {node.name}"
            yield Size(where=where, count=num_statements(node), limit=MAX_STATEMENTS, unit="statements")


def modules(paths: list[str]) -> Iterator[Path]:
    """Every Python file at or under `paths`, which are relative to the project's root."""
    for start in (ROOT / path for path in paths):
        yield from sorted(start.rglob("*.py")) if start.is_dir() else [start]


def main(paths: list[str]) -> int:
    """Check, report, and return the exit status."""
    found = [size for path in modules(paths) for size in sizes(path)]
    over = [size for size in found if size.count > size.limit]
    for size in over:
        print(size)
    if over:
        print(f"{len(over)} over budget: split them along what they do.")
        return 1
    for unit in ("lines of code", "statements"):
        largest = max((s for s in found if s.unit == unit), key=lambda s: s.count, default=None)
        print(f"largest: {largest}" if largest else f"nothing measured in {unit}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [path for path in DEFAULT_PATHS if (ROOT / path).exists()]))
