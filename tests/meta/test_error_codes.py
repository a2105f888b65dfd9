"""The error tree is complete: every code is used, documented, and survives the wire."""

import ast
import subprocess
import sys

from project_files import ROOT, python_files, tree

from parrot.errors import CODES, ParrotError


def _error_classes(base: type[ParrotError] = ParrotError) -> list[type[ParrotError]]:
    return [base, *(cls for child in base.__subclasses__() for cls in _error_classes(child))]


def _names_and_strings() -> tuple[set[str], set[str]]:
    names: set[str] = set()
    strings: set[str] = set()
    for path in python_files("parrot"):
        if path.name == "errors.py" and path.parent.name == "parrot":
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                names.add(ast.unparse(node.func).split(".")[-1])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
    return names, strings


def test_every_code_is_used_somewhere() -> None:
    raised, strings = _names_and_strings()
    by_default = {cls.default_code for cls in _error_classes() if cls.__name__ in raised}
    assert sorted(set(CODES) - strings - by_default) == []


def test_every_error_class_has_a_known_default_code_of_its_own_kind() -> None:
    wrong = [
        cls.__name__
        for cls in _error_classes()
        if cls.default_code not in CODES or not issubclass(cls, CODES[cls.default_code].error)
    ]
    assert wrong == []


def test_the_error_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "tools/write_reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_error_reference_lists_every_code() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    missing = [code for code, info in CODES.items() if f"`{code}`" not in page or info.number not in page]
    assert missing == []
