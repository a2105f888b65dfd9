"""The page of the Python client: what `parrot` exports."""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator

import parrot
from parrot.config.reference import field_docs
from reference import MADE

INTRODUCTION = """\
Everything here is imported from `parrot`. The [quickstart](../quickstart.md) shows it in use. A program
without an event loop uses `connect_sync`, and what it gives: the same verbs, which block."""
LINE_CHARS = 100

SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")
ENTRY = re.compile(r"^(?P<names>[\w*., ]+): (?P<text>.*)$")

ORDER = (
    "connect",
    "connect_sync",
    "semantic_function",
    "native_function",
    "Input",
    "Output",
    "Join",
    "Schema",
    "Pattern",
    "Sampling",
    "Session",
    "SemanticVariable",
)
"""What comes first; the rest follows by name."""


def sdk_page() -> str:
    """Every exported name with its signature and its contract."""
    names = [name for name in parrot.__all__ if name != "__version__"]
    names.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    lines = ["# Python client", "", MADE, "", INTRODUCTION]
    for name in names:
        lines += ["", *_entry(name, getattr(parrot, name), level=2)]
    return "\n".join(lines) + "\n"


def _entry(name: str, value: object, *, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    signature = _signature(name, value)
    if signature:
        yield ""
        yield "```text"
        yield signature
        yield "```"
    text = inspect.getdoc(value) or ""
    if value is parrot.connect_sync and text == inspect.getdoc(parrot.connect):
        text = "As `connect`, for a `with` block."
    yield from _prose(text)
    if inspect.isclass(value) and dataclasses.is_dataclass(value):
        yield ""
        yield from (f"* `{field}`: {' '.join(doc.split())}" for field, doc in field_docs(value).items())
    if not inspect.isclass(value):
        return
    for member_name, member in vars(value).items():
        if member_name.startswith("_") or not (callable(member) or isinstance(member, property)):
            continue
        if inspect.getdoc(member):
            yield ""
            yield from _entry(f"{name}.{member_name}", member, level=level + 1)


def _signature(name: str, value: object) -> str:
    """How it is called, in the words of its source."""
    if inspect.isclass(value):
        arguments = _fields(value) if dataclasses.is_dataclass(value) else []
    elif isinstance(value, property):
        return ""
    else:
        arguments = _arguments(_definition(inspect.unwrap(value)))  # type: ignore[arg-type]
    if inspect.isclass(value) and not arguments:
        return ""
    last = name.rpartition(".")[2]
    one_line = f"{last}({', '.join(arguments)})"
    if len(one_line) <= LINE_CHARS:
        return one_line
    return f"{last}(\n" + "".join(f"    {each},\n" for each in arguments) + ")"


def _definition(value: Callable[..., object]) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _arguments(definition: ast.stmt) -> list[str]:
    """The parameters of a function, as they stand there."""
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef), "only functions have parameters"
    given = definition.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    shown = [
        _shown(one, default) for one, default in zip(positional, [*defaults, *given.defaults], strict=True)
    ]
    if given.posonlyargs:
        shown.insert(len(given.posonlyargs), "/")
    if given.vararg is not None:
        shown.append(f"*{_shown(given.vararg)}")
    elif given.kwonlyargs:
        shown.append("*")
    shown += [_shown(one, default) for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg is not None:
        shown.append(f"**{_shown(given.kwarg)}")
    return [one for one in shown if one not in ("self", "cls")]


def _fields(value: type) -> list[str]:
    """The fields of a frozen class, which are given by name."""
    definition = _definition(value)
    assert isinstance(definition, ast.ClassDef), "the source of a class is one"
    found = [ast.unparse(one) for one in definition.body if isinstance(one, ast.AnnAssign)]
    return ["*", *found] if any(field.kw_only for field in dataclasses.fields(value)) else found


def _shown(argument: ast.arg, default: ast.expr | None = None) -> str:
    text = ast.unparse(argument)
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if argument.annotation else f"{text}={ast.unparse(default)}"


def _prose(docstring: str) -> Iterator[str]:
    """A docstring's paragraphs; what it says of arguments and errors as lists."""
    in_section = False
    yield ""
    for line in docstring.replace("<", "&lt;").splitlines():
        section = SECTION.match(line)
        if section:
            in_section = True
            yield f"*{section[1]}*"
            yield ""
        elif in_section and line.startswith("    "):
            entry = ENTRY.match(line[4:]) if not line.startswith("     ") else None
            yield f"* `{entry['names']}`: {entry['text']}" if entry else f"  {line.strip()}"
        else:
            in_section = in_section and not line
            yield line
