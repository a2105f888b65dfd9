"""The project's own files, parsed once, for the tests that check conventions."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("parrot", "tools", "examples", "tests")
TEXT_FOLDERS = (*SOURCE_FOLDERS, "docs", "benchmarks", "csrc", ".ci")
TEXT_SUFFIXES = {
    ".py",
    ".h",
    ".cpp",
    ".md",
    ".toml",
    ".yml",
    ".yaml",
    ".ini",
    ".mako",
    ".txt",
    ".json",
    ".sh",
    "",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def python_files(folder: str) -> tuple[Path, ...]:
    """Every Python file of a folder of the project."""
    return tuple(sorted((ROOT / folder).rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path, node: ast.AST | None = None) -> str:
    """A path as messages show it, with the line of `node`."""
    line = getattr(node, "lineno", None)
    return f"{path.relative_to(ROOT)}:{line}" if line else str(path.relative_to(ROOT))


def text_files() -> Iterator[Path]:
    """Every text file that belongs to the project."""
    for path in sorted(ROOT.iterdir()):
        if path.is_file() and path.suffix in TEXT_SUFFIXES and path.name != ".git":
            yield path
    for folder in TEXT_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts:
                yield path


def functions(module: ast.Module) -> Iterator[tuple[str, Function]]:
    """Every function at the top of a module or of a class, with its qualified name."""
    for node in module.body:
        if isinstance(node, Function):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, Function):
                    yield f"{node.name}.{inner.name}", inner


def markdown_files() -> list[Path]:
    """README and its siblings, and everything under docs."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
