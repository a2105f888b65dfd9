import hashlib
import sys
from pathlib import Path

import pytest

from parrot.engine.torch.init import CHAT_TEMPLATE, init_model, list_presets
from parrot.errors import ConfigError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def _hashes(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    init_model("tiny", directory)
    return directory


def test_the_same_seed_writes_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    init_model("tiny", tmp_path / "again", seed=0)
    assert _hashes(tmp_path / "again") == _hashes(tiny)


def test_another_seed_changes_the_weights_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    init_model("tiny", tmp_path / "other", seed=1)
    ours, others = _hashes(tiny), _hashes(tmp_path / "other")
    assert {name for name in ours if ours[name] != others[name]} == {"model.safetensors"}


def test_summary_tells_what_is_on_disk(tmp_path: Path) -> None:
    phases: list[tuple[str, float | None]] = []
    summary = init_model("tiny", tmp_path / "m", progress=lambda phase, done: phases.append((phase, done)))
    assert summary.num_bytes == sum(file.stat().st_size for file in summary.directory.iterdir())
    assert 1_000_000 <= summary.num_parameters <= 2_000_000
    assert all(done is None or 0 <= done <= 1 for _, done in phases)
    assert len({phase for phase, _ in phases}) == 3


def test_transformers_loads_the_model_and_greedy_text_is_varied(tiny: Path) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(tiny)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    assert model.dtype == torch.float32
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    prompt = tokenizer("Summarise: parrots are clever birds.", return_tensors="pt")
    generated = model.generate(**prompt, max_new_tokens=64, do_sample=False, eos_token_id=None)
    new = generated[0][prompt.input_ids.shape[1] :].tolist()
    assert len(new) == 64
    assert len(set(new)) >= 32


def test_tokenizer_gives_any_text_back(tiny: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    text = "Zwölf Boxkämpfer 👩‍👩‍👧 \x00\t  漢字 <|im_end |>\r\n  "
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer) == int(transformers.AutoConfig.from_pretrained(tiny).vocab_size)


def test_chat_template_marks_roles_with_special_tokens(tiny: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(text)
    assert (ids.count(1), ids.count(2)) == (2, 1)
    assert tokenizer.eos_token_id == 2


def test_bench_preset_has_the_published_shape() -> None:
    bench = list_presets()["bench-115m"]
    head = bench.hidden_size // bench.num_heads
    attention = 2 * bench.hidden_size**2 + 2 * bench.hidden_size * bench.num_kv_heads * head
    layer = attention + 3 * bench.hidden_size * bench.mlp_size + 2 * bench.hidden_size
    parameters = bench.num_layers * layer + (bench.vocab_size + 1) * bench.hidden_size
    assert (bench.tied, bench.dtype, bench.window) == (True, "bfloat16", 8192)
    assert parameters == 115_419_456


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty directory"):
        init_model("tiny", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_unknown_preset_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiny, small, bench-115m"):
        init_model("huge", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(phase: str, _done: float | None) -> None:
        if phase == "writing the weights":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        init_model("tiny", tmp_path / "m", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named_with_the_way_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match="pip install") as caught:
        init_model("tiny", tmp_path / "m")
    assert caught.value.code == "missing_extra"
