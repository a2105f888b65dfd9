"""The documentation is whole: what it names exists, and what it shows can be run."""

import ast
import json
import re
from pathlib import Path

import pytest
from documents import blocks, links
from project_files import ROOT, markdown_files, python_files, shown

RUN = {"python", "sh"}
"""Languages of blocks that are run (tests/e2e/test_documented_commands.py), unless they say why not."""
SHOWN = {"text", "json", "toml"}
"""Languages of blocks that show something."""

INVARIANT = re.compile(r"^\W*(?P<number>[A-Z]{1,2}[0-9]{1,3})\b")
PAGES = markdown_files()


def _ids(path: Path) -> str:
    return shown(path)


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_link_leads_somewhere(page: Path) -> None:
    inside = [target for target in links(page) if "://" not in target and not target.startswith("#")]
    broken = [target for target in inside if not (page.parent / target.partition("#")[0]).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_block_has_a_language_that_is_run_or_shown(page: Path) -> None:
    odd = [f"line {b.line}: {b.language or 'none'}" for b in blocks(page) if b.language not in RUN | SHOWN]
    assert odd == []


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_blocks_that_are_shown_are_well_formed(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            assert ast.parse(block.code).body, f"line {block.line}"
        elif block.language == "json":
            assert json.loads(block.code) is not None, f"line {block.line}"


def test_the_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shell = "\n".join(block.code for page in PAGES for block in blocks(page) if block.language == "sh")
    named = set(re.findall(r"^make ([a-z]+)", shell, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "not executable"
    assert "make test" in script.read_text(encoding="utf-8")


def _invariants() -> list[str]:
    lines = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8").splitlines()
    return [found["number"] for found in map(INVARIANT.match, lines) if found]


def test_every_invariant_is_named_by_a_test() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in python_files("tests"))
    numbers = _invariants()
    assert numbers
    assert [number for number in numbers if not re.search(rf"\b{number}\b", tests)] == []


def test_no_invariant_has_another_ones_number() -> None:
    numbers = _invariants()
    assert sorted(set(numbers)) == sorted(numbers)


def test_the_paper_map_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:parrot|tests|examples|benchmarks)/[\w./]+)`", page))
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_site_lists_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f" {page}" not in nav] == []
