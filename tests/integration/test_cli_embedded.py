"""The embedded service: which engine it takes, and what it says when it cannot."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import parrot
from parrot import Input, Output, assembly, semantic_function
from parrot.assembly import choose_engine, embedded_app, find_model
from parrot.cli import logs, serving
from parrot.cli.root import run
from parrot.config import EngineSettings, Settings
from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig
from parrot.engine.torch.config import TorchConfig
from parrot.errors import ConfigError
from parrot.sdk.asgi import StreamingASGITransport


@semantic_function(max_tokens=8)
def answer(question: Input, text: Output) -> None:
    """Question: {{question}} Answer: {{text}}"""


def _without(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == absent else importlib.util.find_spec(name)

    monkeypatch.setattr(assembly, "find_spec", find_spec)


async def test_configured_engines_are_taken_when_none_is_named() -> None:
    config = ScriptedConfig(answers=(ScriptedAnswer(pattern="why", answer="because"),))
    settings = Settings(engines=(EngineSettings(name="mine", config=config),))
    async with embedded_app(settings=settings) as app:
        transport = StreamingASGITransport(app)
        async with parrot.connect("http://embedded.localhost", transport=transport):
            assert await answer(question="why?").get() == "because"
        assert [engine.engine_id for engine in app.service.engines().engines] == ["mine"]


async def test_an_engine_that_is_named_replaces_the_configured_ones() -> None:
    settings = Settings(engines=(EngineSettings(name="mine", config=ScriptedConfig()),))
    async with embedded_app(engine="scripted", settings=settings) as app:
        assert [engine.engine_id for engine in app.service.engines().engines] == ["main"]


async def test_an_engine_that_cannot_start_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        async with embedded_app(model=str(tmp_path), engine="torch"):
            raise AssertionError("an empty directory is no model")
    assert caught.value.code == "bad_model"


def test_without_torch_and_without_a_model_the_scripted_engine_answers_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _without(monkeypatch, "torch")
    assert isinstance(choose_engine().config, ScriptedConfig)
    assert "torch is not installed" in capsys.readouterr().err


def test_a_model_directory_means_the_torch_engine(tmp_path: Path) -> None:
    assert choose_engine(model=str(tmp_path)).config == TorchConfig(model_dir=str(tmp_path))


def test_an_unknown_kind_of_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="no engine 'magic'"):
        choose_engine(engine="magic")


@pytest.mark.parametrize("model", ["./absent", "/absent/model", "absent", "a/b/c"])
def test_a_model_that_is_not_there_is_refused_without_asking_anybody(model: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_model(model)
    assert caught.value.code == "bad_model"


def test_serving_a_model_without_torch_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "configure_logs", lambda _level: None)
    monkeypatch.setattr(serving, "find_spec", lambda _name: None)
    assert run(["serve", "--model", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error[P6003]: ")
    assert "CPU:" in told
    assert "CUDA:" in told
    assert "Traceback" not in told
