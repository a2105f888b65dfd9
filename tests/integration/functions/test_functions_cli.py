"""`parrot functions`: push a file, list, show, call, warm, remove."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parrot.cli.beside import service_beside
from parrot.cli.root import run

Command = Callable[..., str]

MODULE = '''
from parrot import Input, Output, semantic_function

@semantic_function(max_tokens=6)
def greet(name: Input, greeting: Output, tone: Input = "dry"):
    """You greet people. Tone: {{tone}}. Name: {{name}} Greeting: {{greeting}}"""

@semantic_function(max_tokens=6)
def part(name: Input, farewell: Output):
    """You say goodbye to {{name}}: {{farewell}}"""
'''


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with service_beside(model=None, engine="scripted") as address:
        yield address


@pytest.fixture
def command(url: str, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `parrot functions …` and gives what it printed; its exit status must be `status`."""

    def call(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        ended = run(["functions", *arguments, "--url", url])
        printed = capsys.readouterr()
        assert ended == status, printed.err
        return printed.err if status else printed.out

    return call


@pytest.fixture(autouse=True)
def pushed(command: Command, tmp_path: Path) -> Path:
    module = tmp_path / "greetings.py"
    module.write_text(MODULE, encoding="utf-8")
    command("push", str(module))
    return module


def test_a_file_is_pushed_and_listed(command: Command) -> None:
    listed = json.loads(command("ls", "--json"))["functions"]
    assert [(each["name"], each["inputs"]["name"]["default"]) for each in listed] == [
        ("greet", None),
        ("part", None),
    ]
    assert "greet" in command("ls")


def test_what_has_not_changed_gets_no_new_version(command: Command, pushed: Path) -> None:
    again = json.loads(command("push", str(pushed), "--json"))["functions"]
    before = {each["name"]: each["version"] for each in again}
    pushed.write_text(MODULE.replace("say goodbye", "say farewell"), encoding="utf-8")
    changed = json.loads(command("push", str(pushed), "--json"))["functions"]
    assert {each["name"]: each["version"] for each in changed} == {
        "greet": before["greet"],
        "part": before["part"] + 1,
    }


def test_a_function_is_shown(command: Command) -> None:
    shown = command("show", "greet")
    assert "You greet people." in shown
    assert "tone='dry'" in shown


def test_a_function_is_called(command: Command, tmp_path: Path) -> None:
    (tmp_path / "name.txt").write_text("Ada", encoding="utf-8")
    said = command("call", "greet", "name=Ada")
    assert said.strip()
    assert command("call", "greet", f"name=@{tmp_path / 'name.txt'}", "tone=dry") == said
    shorter = json.loads(command("call", "greet", "name=Ada", "--max-tokens", "1", "--json"))
    assert said.startswith(shorter["outputs"]["greeting"])


def test_what_is_missing_is_said(command: Command) -> None:
    assert "placeholder {{name}}" in command("call", "greet", status=1)
    assert "P1406" in command("show", "nobody", status=1)
    assert "INPUT=TEXT" in command("call", "greet", "Ada", status=2)


def test_a_function_is_warmed_and_removed(command: Command) -> None:
    warmed = json.loads(command("warm", "greet", "--json"))
    assert warmed["engines"][0]["held_tokens"] == warmed["prefix_tokens"]
    command("rm", "greet")
    assert "P1406" in command("show", "greet", status=1)


def test_only_the_functions_that_are_named_are_pushed(command: Command, pushed: Path) -> None:
    some = json.loads(command("push", str(pushed), "--only", "part", "--json"))["functions"]
    assert [each["name"] for each in some] == ["part"]
    assert "has no semantic function nobody" in command("push", str(pushed), "--only", "nobody", status=2)
