"""Names say what a thing is, and each is used once."""

import ast
from collections import Counter

from project_files import ROOT, functions, python_files, shown, tree

EMPTY_NAMES = {"util", "utils", "misc", "common", "helper", "helpers", "manager"}
"""Module names that say nothing about what is inside."""

ASSERTING_CALLS = ("raises", "warns", "assert_", "check", "expect", "run_contract")
"""Beginnings of the names of functions that fail when a behaviour is not there."""


def test_no_module_has_a_name_that_says_nothing() -> None:
    paths = [path for folder in ("parrot", "tools", "examples", "tests") for path in python_files(folder)]
    empty = [shown(path) for path in paths if EMPTY_NAMES & {path.stem, *path.relative_to(ROOT).parent.parts}]
    assert empty == []


def test_no_two_test_files_share_a_base_name() -> None:
    stems = Counter(path.stem for path in python_files("tests"))
    assert [stem for stem, count in stems.items() if count > 1 and stem not in {"conftest", "__init__"}] == []


def test_each_test_function_has_its_own_name() -> None:
    repeated = [
        f"{shown(path)} {name}"
        for path in python_files("tests")
        for name, count in Counter(name for name, _ in functions(tree(path))).items()
        if count > 1 and name.split(".")[-1].startswith("test_")
    ]
    assert repeated == []


def test_each_test_function_asserts_something() -> None:
    silent = [
        f"{shown(path, function)} {name}"
        for path in python_files("tests")
        for name, function in functions(tree(path))
        if function.name.startswith("test_") and not _asserts(function)
    ]
    assert silent == []


def _asserts(function: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and _called(node).startswith(ASSERTING_CALLS))
        for node in ast.walk(function)
    )


def _called(call: ast.Call) -> str:
    target = call.func
    return target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
