"""The documentation is whole: what it names exists, and what it shows can be run."""

import ast
import json
import re
import shlex
from pathlib import Path

import click
import pytest
from documents import anchors, blocks, links, prose
from project_files import ROOT, markdown_files, python_files, shown

from parrot.cli.root import cli

RUN = {"python", "sh"}
"""Languages of blocks that are run (tests/e2e/test_documented_commands.py), unless they say why not."""
SHOWN = {"text", "json", "toml"}
"""Languages of blocks that show something."""

INVARIANT = re.compile(r"^\W*(?P<number>[A-Z]{1,2}[0-9]{1,3})\b")
COMMAND = re.compile(r"`(parrot [^`]+)`")
PAGES = markdown_files()


def _ids(path: Path) -> str:
    return shown(path)


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_link_leads_somewhere(page: Path) -> None:
    inside = [target for target in links(page) if "://" not in target and not target.startswith("#")]
    broken = [target for target in inside if not (page.parent / target.partition("#")[0]).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_link_into_a_page_leads_to_one_of_its_headings(page: Path) -> None:
    inside = [target.partition("#") for target in links(page) if "://" not in target and "#" in target]
    broken = [
        f"{other}#{anchor}"
        for other, _, anchor in inside
        if anchor not in anchors((page.parent / other) if other else page)
    ]
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


def test_programs_that_need_another_environment_are_run_by_a_test_there() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in python_files("tests"))
    sessions = set(
        re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE)
    )
    elsewhere = [
        b for page in PAGES for b in blocks(page) if b.language == "python" and b.not_run is not None
    ]
    assert elsewhere
    for block in elsewhere:
        where = f"{shown(block.page)}:{block.line}"
        assert block.page.relative_to(ROOT / "docs").as_posix() in tests, where
        assert set(re.findall(r"nox -s (\w+)", block.not_run or "")) & sessions, where


def test_commands_that_take_too_long_are_at_least_commands() -> None:
    checked = 0
    for page in PAGES:
        for block in blocks(page):
            if block.language != "sh" or block.not_run is None:
                continue
            for line in re.split(r"\n|&&", block.code.replace("\\\n", " ")):
                words = shlex.split(line, comments=True)
                if words[:1] != ["parrot"]:
                    continue
                _check_command(cli, words[1:])
                checked += 1
    assert checked


def test_commands_that_are_named_in_a_sentence_are_commands() -> None:
    texts = {shown(page): prose(page) for page in PAGES}
    texts |= {
        shown(path): path.read_text(encoding="utf-8")
        for path in (*python_files("parrot"), *python_files("examples"))
    }
    named = [
        (where, " ".join(command.replace("…", "").split()))
        for where, text in texts.items()
        for command in COMMAND.findall(text)
    ]
    assert named
    wrong: list[str] = []
    for where, command in named:
        try:
            _check_command(cli, shlex.split(command)[1:])
        except click.BadOptionUsage:
            continue  # the sentence is about an option, and gives it no value
        except click.UsageError as error:
            wrong.append(f"{where}: {command}: {error.message}")
    assert wrong == []


def _check_command(command: click.Command, words: list[str]) -> None:
    """Raises what the command line would when a subcommand or an option is not there."""
    context = click.Context(command)
    _, words, _ = command.make_parser(context).parse_args(words)
    if isinstance(command, click.Group) and words:
        _, found, arguments = command.resolve_command(context, words)
        assert found is not None
        _check_command(found, arguments)


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
