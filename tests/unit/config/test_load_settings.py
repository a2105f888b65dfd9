"""Settings: sources, precedence, and every way to get them wrong."""

import os
from pathlib import Path

import pytest

from parrot.config import load_settings
from parrot.engine.scripted_config import ScriptedConfig
from parrot.engine.torch.config import TorchConfig
from parrot.errors import ConfigError

HASH = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PARROT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


def write(text: str) -> None:
    Path("parrot.toml").write_text(text)


def write_user(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "user" / "parrot" / "parrot.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def test_defaults_hold_when_nothing_is_set() -> None:
    loaded = load_settings()
    assert loaded.settings.server.port == 8321
    assert loaded.settings.engines == ()
    assert loaded.origins == {}
    assert loaded.warnings == ()


def test_each_source_beats_those_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowest = "max_fan_in = 1\nmax_sessions = 1\nmax_wait_s = 1\nmax_json_depth = 1\n"
    user = write_user(tmp_path, f"[limits]\n{lowest}[server]\nport = 1\n")
    write("[limits]\nmax_fan_in = 2\nmax_sessions = 2\nmax_wait_s = 2\n")
    monkeypatch.setenv("PARROT_LIMITS__MAX_FAN_IN", "3")
    monkeypatch.setenv("PARROT_LIMITS__MAX_SESSIONS", "3")
    loaded = load_settings({"limits.max_fan_in": 4}, defaults={"server.port": 5, "store.path": "x.db"})
    limits = loaded.settings.limits
    assert (limits.max_fan_in, limits.max_sessions, limits.max_wait_s, limits.max_json_depth) == (
        4,
        3,
        2.0,
        1,
    )
    assert loaded.settings.server.port == 1
    assert loaded.origins["limits.max_fan_in"] == "option"
    assert loaded.origins["limits.max_sessions"] == "environment"
    assert loaded.origins["limits.max_wait_s"] == "./parrot.toml"
    assert loaded.origins["server.port"] == str(user)
    assert "limits.max_value_bytes" not in loaded.origins


def test_files_can_be_named_in_place_of_the_usual_ones(tmp_path: Path) -> None:
    write("[server]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 2\n")
    assert load_settings(files=[other]).settings.server.port == 2


def test_engines_are_made_of_their_kinds_own_configuration(tmp_path: Path) -> None:
    write(
        f'[engines.main]\nmodel_dir = "{tmp_path}"\nreplicas = 2\n'
        '[engines.fake]\nkind = "scripted"\nanswers = [{pattern = "hi", answer = "hello"}]\n'
    )
    main, fake = load_settings().settings.engines
    assert isinstance(main.config, TorchConfig)
    assert main.engine_ids() == ("main-0", "main-1")
    assert isinstance(fake.config, ScriptedConfig)
    assert fake.config.answers[0].answer == "hello"
    assert (fake.kind, fake.engine_ids()) == ("scripted", ("fake",))


def test_one_engine_may_be_set_in_several_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    write('[engines.main]\nkind = "scripted"\nseed = 3\nnum_blocks = 9\n')
    monkeypatch.setenv("PARROT_ENGINES__MAIN__SEED", "7")
    loaded = load_settings({"engines.main.replicas": 2})
    (engine,) = loaded.settings.engines
    assert engine.config == ScriptedConfig(seed=7, num_blocks=9)
    assert loaded.origins["engines.main.seed"] == "environment"


def test_a_setting_of_another_kind_of_engine_is_told_with_what_made_it_so() -> None:
    write('[engines.main]\nkind = "scripted"\nanswer_words = 3\n')
    with pytest.raises(ConfigError) as made_torch:
        load_settings(
            {"engines.main.kind": "torch", "engines.main.model_dir": "."},
            option_names={"engines.main.kind": "--model"},
        )
    assert made_torch.value.message == (
        "./parrot.toml:engines.main.answer_words: only scripted engines have this setting, "
        "and --model makes it torch"
    )
    with pytest.raises(ConfigError, match=r"only torch .* \./parrot\.toml:engines\.main\.kind makes it scr"):
        load_settings({"engines.main.device": "cpu"})


def test_structured_values_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_SERVER__KEYS", f'["bob:{HASH}"]')
    (key,) = load_settings().settings.server.keys
    assert (key.tenant_id, key.sha256.hex()) == ("bob", HASH)


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        pytest.param("PARROT_LIMITS__MAX_WAIT_SS", "PARROT_LIMITS__MAX_WAIT_S", id="misspelt"),
        pytest.param("PARROT_MAXTOKENS", "did you mean", id="row_137"),
        pytest.param("PARROT_LIMITS_MAX_WAIT_S", "PARROT_LIMITS__MAX_WAIT_S", id="one underscore too few"),
        pytest.param("PARROT_ENGINES__MAIN__SEEDS", "SEED", id="engine"),
    ],
)
def test_a_variable_that_is_no_setting_is_a_warning_with_near_matches(
    variable: str, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "3")
    (warning,) = load_settings().warnings
    assert variable in warning
    assert near in warning


def test_variables_of_single_commands_are_not_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_URL", "http://127.0.0.1:1")
    assert load_settings().warnings == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "[limits]\nmax_wait = 3\n", "./parrot.toml:limits.max_wait: no such", id="row_132_unknown"
        ),
        pytest.param("[limit]\nmax_wait_s = 3\n", "did you mean limits?", id="row_132_unknown_section"),
        pytest.param('[limits]\nmax_wait_s = "3"\n', "./parrot.toml:limits.max_wait_s: ", id="row_132_type"),
        pytest.param("[limits]\nmax_wait_s = true\n", "./parrot.toml:limits.max_wait_s: ", id="row_132_bool"),
        pytest.param("[limits]\nmax_fan_in = 2.0\n", "./parrot.toml:limits.max_fan_in: ", id="row_132_float"),
        pytest.param("[limits]\nmax_fan_in = -1\n", "greater than or equal to 0", id="row_132_negative"),
        pytest.param("[limits]\nmax_wait_s = nan\n", "./parrot.toml:limits.max_wait_s: ", id="row_132_nan"),
        pytest.param("[limits]\nmax_wait_s = 1\nmax_wait_s = 2\n", "line 3", id="row_132_duplicate"),
        pytest.param("[server\nport = 3\n", "not valid TOML", id="row_132_not_toml"),
        pytest.param("!!python/object: 1", "not valid TOML", id="row_132_yaml_tag"),
        pytest.param("limits = 3\n", "./parrot.toml:limits: ", id="row_132_no_section"),
        pytest.param("x = " + "[" * 100_000, "not valid TOML", id="row_132_deep"),
        pytest.param("#" * (1 << 20) + "#", "larger than 1,048,576 bytes", id="row_132_large"),
        pytest.param("[server]\nport = 70000\n", "server.port: 70000 is not a port", id="row_134_port"),
        pytest.param('[server]\nkeys = ["bob:12"]\n', "./parrot.toml:server.keys", id="key that is no hash"),
        pytest.param(
            '[engines.a]\nkind = "scripted"\n[engines.a]\nkind = "scripted"\n',
            "line 3",
            id="row_138_same_name",
        ),
        pytest.param(
            '[engines.a]\nkind = "scripted"\nreplicas = 2\n[engines.a-1]\nkind = "scripted"\n',
            "has the name of another engine",
            id="row_138_same_replica_name",
        ),
        pytest.param(
            '[engines.a]\nmodel_dir = "absent"\n', "no directory 'absent'", id="row_138_unknown_model"
        ),
        pytest.param("[engines.a]\nreplicas = 2\n", "model_dir must be set", id="row_138_no_model"),
        pytest.param('[engines.a]\nkind = "magic"\n', "./parrot.toml:engines.a", id="unknown kind"),
        pytest.param('[engines.A]\nkind = "scripted"\n', "lower-case", id="engine name"),
        pytest.param(
            '[engines.a]\nkind = "scripted"\nmax_batch = 0\n', "engines.a: max_batch", id="engine's check"
        ),
        pytest.param("[limits]\nmax_call_bytes = 9000000\n", "is above limits.max_batch_bytes", id="row_139"),
        pytest.param(
            "[limits]\nmax_attempts = 0\nmax_crash_attempts = 0\n", "must be above 0", id="row_139_zero"
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name_and_key(text: str, expected: str) -> None:
    write(text)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert expected in caught.value.message
    assert "parrot.toml" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_variable_of_the_wrong_type_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_LIMITS__MAX_WAIT_S", "soon")
    with pytest.raises(ConfigError, match="PARROT_LIMITS__MAX_WAIT_S"):
        load_settings()


def test_a_variable_with_broken_json_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_SERVER__KEYS", '["bob')
    with pytest.raises(ConfigError, match="PARROT_SERVER__KEYS"):
        load_settings()


def test_listening_beyond_this_machine_without_keys_is_refused() -> None:
    """Row 133 of the bad-input catalogue."""
    write('[server]\nhost = "0.0.0.0"\n')
    with pytest.raises(ConfigError, match=r"refusing to listen on 0\.0\.0\.0 without auth") as caught:
        load_settings()
    assert caught.value.code == "no_auth_listen"
    write(f'[server]\nhost = "0.0.0.0"\nkeys = ["bob:{HASH}"]\n')
    assert load_settings().settings.server.host == "0.0.0.0"


def test_a_secret_that_others_can_read_is_warned_about() -> None:
    """Row 136 of the bad-input catalogue."""
    write('[service]\nsalt = "s3cret"\n')
    file = Path("parrot.toml")
    file.chmod(0o644)
    (warning,) = load_settings().warnings
    assert "service.salt" in warning
    assert "s3cret" not in warning
    file.chmod(0o600)
    assert load_settings().warnings == ()


def test_a_file_that_cannot_be_read_is_refused() -> None:
    Path("parrot.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings()
