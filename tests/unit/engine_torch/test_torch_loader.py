"""What is wrong with a model directory is said, with the file and the key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch_driver import VARIANTS, StartDriver, Variant

from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.loader import hash_model
from parrot.engine.torch.models.llama_shape import LlamaShape
from parrot.engine.torch.models.registry import choose_model
from parrot.engine.torch.startup import build_parts
from parrot.errors import ConfigError

CopyModel = Callable[..., Path]


@pytest.fixture
def copy_model(plain_dir: Path, tmp_path: Path) -> CopyModel:
    """A copy of the plain model with changes to its config; None removes a key."""

    def copy(**changes: Any) -> Path:
        directory = tmp_path / "model"
        shutil.copytree(plain_dir, directory)
        path = directory / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
        return directory

    return copy


def read_shape(directory: Path) -> LlamaShape:
    shape = choose_model(directory).shape
    assert isinstance(shape, LlamaShape)
    return shape


def build(directory: Path, **settings: Any) -> Any:
    config = TorchConfig(**{"model_dir": str(directory), "kv_bytes": 1 << 22, **settings})
    return build_parts(config, lambda _phase, _fraction: None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "nothing-known"}, "nothing-known"),
        ({"model_type": None}, "model_type"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4"),
        ({"head_dim": 15}, "head_dim 15"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "factor"),
        ({"dtype": "float64"}, "float64"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ],
)
def test_a_config_that_is_not_supported_names_its_key(
    copy_model: CopyModel, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build(copy_model(**changes))
    assert caught.value.code == "bad_model"
    assert "config.json" in caught.value.message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_missing_or_damaged_file_is_bad_model(copy_model: CopyModel, name: str, damage: str) -> None:
    directory = copy_model()
    if damage == "missing":
        (directory / name).unlink()
    else:
        (directory / name).write_bytes(b"\x00garbage")
    with pytest.raises(ConfigError, match=name.partition(".")[0]) as caught:
        build(directory)
    assert caught.value.code == "bad_model"


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("model.layers.1.mlp.up_proj.weight", None, "no tensor 'model.layers.1.mlp.up_proj.weight'"),
        ("model.norm.weight", torch.ones(3), r"shape \[3\], the config asks for \[64\]"),
        ("model.layers.0.extra.weight", torch.ones(3), "do not belong"),
    ],
)
def test_weights_that_do_not_fit_the_config_name_the_tensor(
    copy_model: CopyModel, name: str, tensor: torch.Tensor | None, words: str
) -> None:
    directory = copy_model()
    weights = load_file(directory / "model.safetensors")
    weights.pop(name, None)
    if tensor is not None:
        weights[name] = tensor
    save_file(weights, directory / "model.safetensors")
    with pytest.raises(ConfigError, match=words):
        build(directory)


def test_a_directory_that_is_not_there_is_bad_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a directory"):
        build(tmp_path / "nothing")


async def test_weights_in_several_files_give_the_same_tokens(
    copy_model: CopyModel, plain_dir: Path, start: StartDriver
) -> None:
    directory = copy_model()
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, directory / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    whole, split = await start(plain_dir), await start(directory)
    first = await whole.generate(1, [9, 8, 7], max_tokens=8)
    second = await split.generate(1, [9, 8, 7], max_tokens=8)
    assert first.token_ids == second.token_ids


def test_an_index_that_names_a_missing_file_is_bad_model(copy_model: CopyModel) -> None:
    directory = copy_model()
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"x": "gone.safetensors"}}')
    with pytest.raises(ConfigError, match=r"gone\.safetensors"):
        build(directory)


def test_end_of_sequence_comes_from_the_generation_config(copy_model: CopyModel) -> None:
    directory = copy_model()
    (directory / "generation_config.json").write_text('{"eos_token_id": [2, 4]}')
    assert read_shape(directory).eos_ids == (2, 4)
    (directory / "generation_config.json").unlink()
    assert read_shape(directory).eos_ids == (2,)


def test_rope_settings_may_have_the_older_form(copy_model: CopyModel) -> None:
    old = read_shape(
        copy_model(rope_parameters=None, rope_theta=5000.0, rope_scaling={"type": "linear", "factor": 4.0})
    )
    assert (old.rope.theta, old.rope.kind, old.rope.factor) == (5000.0, "linear", 4.0)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_the_number_of_parameters_is_that_of_transformers(
    variant: Variant, model_dirs: Callable[[Variant], Path]
) -> None:
    directory = model_dirs(variant)
    expected = variant.model_class.from_pretrained(directory).num_parameters()
    assert build(directory).model.num_parameters == expected


def test_the_hash_differs_by_weights_and_type(copy_model: CopyModel, plain_dir: Path) -> None:
    directory = copy_model()
    assert hash_model(directory, "a") != hash_model(directory, "b")
    before = hash_model(directory, "a")
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, directory / "model.safetensors")
    assert hash_model(directory, "a") != before


@pytest.mark.parametrize(
    "settings",
    [{"kv_bytes": 10}, {"context_tokens": 4096}, {"max_batch": 0}, {"max_batch": 9, "step_tokens": 8}],
)
def test_a_setting_that_cannot_work_is_a_config_error(plain_dir: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(plain_dir, **settings)
    assert caught.value.param is not None
    assert caught.value.param.startswith("engine.")
