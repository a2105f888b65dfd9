"""Rules about the package's source that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from project_files import functions, python_files, shown, text_files, tree

MACHINE_PATH = re.compile(r"(?<![\w.$}\])-])/" + r"(?:root|home|tmp|work|opt)/[a-z.]")
"""A path that exists on somebody's machine only."""


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{shown(path)}:{number}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_everything_public_is_documented() -> None:
    bare = [
        f"{shown(path, node)} {name}"
        for path in python_files("parrot")
        for name, node in _public(tree(path))
        if ast.get_docstring(node) is None
    ]
    assert bare == []


def _public(
    module: ast.Module,
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    private = {n.name for n in module.body if isinstance(n, ast.ClassDef) and n.name.startswith("_")}
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name not in private:
            yield node.name, node
    for name, function in functions(module):
        if (
            name.split(".")[0] not in private
            and not function.name.startswith("_")
            and not _overload(function)
        ):
            yield name, function


def _overload(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = [ast.unparse(decorator).split(".")[-1] for decorator in function.decorator_list]
    return bool({"overload", "setter", "override"} & set(names))


def test_nothing_waits_by_sleeping_and_looking_again() -> None:
    """A loop may sleep between attempts at something, never between looks at a condition."""
    polling = [
        shown(path, node)
        for path in python_files("parrot")
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.While) and _only_looks(node.body))
        or (isinstance(node, ast.Call) and _is_sleep(node) and _positive_literal(node))
    ]
    assert polling == []


def _only_looks(body: list[ast.stmt]) -> bool:
    rest = [statement for statement in body if not _is_sleep_statement(statement)]
    looks = all(
        isinstance(statement, ast.If)
        and all(isinstance(inner, ast.Break | ast.Return | ast.Continue) for inner in statement.body)
        for statement in rest
    )
    return looks and len(rest) < len(body)


def _is_sleep_statement(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    call = value.value if isinstance(value, ast.Await) else value
    return isinstance(call, ast.Call) and _is_sleep(call)


def _is_sleep(call: ast.Call) -> bool:
    target = call.func
    return getattr(target, "attr", getattr(target, "id", "")) == "sleep"


def _positive_literal(call: ast.Call) -> bool:
    return any(
        isinstance(a, ast.Constant) and isinstance(a.value, int | float) and a.value > 0 for a in call.args
    )


CONFIG_NAMES = re.compile(r"(\w*Config|Limits|Settings)\Z")


def _configs() -> list[tuple[Path, ast.ClassDef]]:
    return [
        (path, node)
        for path in python_files("parrot")
        for node in tree(path).body
        if isinstance(node, ast.ClassDef)
        and CONFIG_NAMES.match(node.name)
        and any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]


def test_every_config_is_frozen_and_keyword_only() -> None:
    configs = _configs()
    thawed = [
        f"{shown(path, node)} {node.name}"
        for path, node in configs
        if not any(
            "frozen=True" in ast.unparse(decorator) and "kw_only=True" in ast.unparse(decorator)
            for decorator in node.decorator_list
        )
    ]
    assert configs
    assert thawed == []


def test_every_config_field_has_a_sentence_under_it() -> None:
    bare = [
        f"{shown(path, field)} {node.name}.{ast.unparse(field.target)}"
        for path, node in _configs()
        for field, after in zip(node.body, [*node.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation)
        if not _is_sentence(after)
    ]
    assert bare == []


def _is_sentence(node: ast.stmt | None) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and node.value.value.rstrip().endswith((".", "!", ")"))
    )
