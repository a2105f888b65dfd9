"""The settings as people read them."""

from dataclasses import fields
from pathlib import Path

from parrot.config import Settings
from parrot.config.reference import MASK, field_docs, flatten, reference
from parrot.config.schema import known_keys
from parrot.config.settings import ENGINE_KINDS, SECTIONS, EngineSettings
from parrot.core.service_config import ServiceConfig
from parrot.engine.scripted_config import ScriptedConfig

ROOT = Path(__file__).parents[3]


def test_every_setting_has_its_sentence_in_the_reference() -> None:
    text = reference()
    for cls in (*SECTIONS.values(), *ENGINE_KINDS.values()):
        docs = field_docs(cls)
        assert set(docs) == {field.name for field in fields(cls)}
        assert all(sentence.replace("|", "\\|") in text for sentence in docs.values())


def test_the_committed_reference_is_current() -> None:
    assert (ROOT / "docs" / "config.md").read_text() == reference()


def test_flattened_settings_are_the_known_keys() -> None:
    settings = Settings(engines=(EngineSettings(name="main", config=ScriptedConfig()),))
    flat = flatten(settings)
    assert set(flat) <= {key.replace("*", "main") for key in known_keys()}
    assert flat["engines.main.kind"] == "scripted"
    assert flat["limits.max_batch_calls"] == settings.limits.max_batch_calls


def test_secrets_are_masked() -> None:
    flat = flatten(Settings(service=ServiceConfig(salt="s3cret")))
    assert flat["service.salt"] == MASK
    assert flatten(Settings())["service.salt"] == ""
