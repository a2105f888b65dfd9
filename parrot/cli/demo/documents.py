"""What the demo reads: files that the user names, or the project's own documentation."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import parrot
from parrot.errors import ConfigError

MAX_DOCUMENT_CHARS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text to summarise."""

    title: str
    text: str


def read_document(files: Sequence[Path]) -> Document:
    """The files' texts joined; without files, the project's own documentation, or the package's docstrings.

    Raises:
        ConfigError: a file cannot be read, is not text, or all are empty.
    """
    if not files:
        return _own_document()
    text = "\n\n".join(_read(file) for file in files).strip()[:MAX_DOCUMENT_CHARS]
    if not text:
        raise _unusable("there is no text in what was named", "FILE")
    title = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    return Document(title=title, text=text)


def pieces(text: str, *, num_pieces: int, max_chars: int) -> list[str]:
    """`num_pieces` pieces of at most `max_chars` from a text's beginning, cut at white space if possible.

    A text that is too short for that many gives fewer, but at least one.
    """
    found: list[str] = []
    begin = 0
    size = min(max_chars, max(200, len(text) // num_pieces))
    while begin < len(text) and len(found) < num_pieces:
        end = min(begin + size, len(text))
        if end < len(text):
            gap = max(text.rfind(" ", begin, end), text.rfind("\n", begin, end))
            end = gap + 1 if gap > begin else end
        piece = text[begin:end].strip()
        if piece:
            found.append(piece)
        begin = end
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").replace("\x00", "")
    except UnicodeDecodeError:
        raise _unusable(f"{file} is not UTF-8 text", str(file)) from None
    except OSError as error:
        raise _unusable(f"{file} cannot be read: {error.strerror}", str(file)) from None


def _unusable(message: str, param: str) -> ConfigError:
    return ConfigError(message, param=param, data={"fix": "name a text file, or none at all"})


def _own_document() -> Document:
    root = Path(parrot.__file__).parent.parent
    files = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    if texts and (root / "pyproject.toml").is_file():
        return Document(title="Parrot's own documentation", text="\n\n".join(texts))
    return Document(title="Parrot's own docstrings", text="\n\n".join(_docstrings()))


def _docstrings() -> Iterator[str]:
    for package in ("types", "ports", "core", "sdk"):
        module = importlib.import_module(f"parrot.{package}")
        yield inspect.getdoc(module) or ""
        for found in pkgutil.iter_modules(module.__path__):
            yield inspect.getdoc(importlib.import_module(f"parrot.{package}.{found.name}")) or ""
