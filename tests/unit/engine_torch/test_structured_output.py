"""Outputs that a grammar bounds: always of the language, and no burden to anyone else."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
import re2
import torch
from torch_driver import Driver, Generated, StartDriver

from parrot.engine.torch import grammar as grammar_module
from parrot.engine.torch.engine import TorchEngine
from parrot.engine.torch.grammar import GrammarCompiler, TokenMasks
from parrot.engine.torch.init import init_model
from parrot.engine.torch.sampler import COMPLETE, Choice, Sampler
from parrot.engine.torch.tokenizer import load_tokenizer
from parrot.errors import EngineError, InvalidError
from parrot.types.sampling import Grammar, Sampling

NUM_SCHEMAS = 50
PROMPT = tuple(range(10, 40))


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    init_model("tiny", directory)
    return directory


@pytest.fixture
async def tiny(start: StartDriver, tiny_dir: Path) -> Driver:
    return await start(tiny_dir, kv_bytes=1 << 26)


def schema_grammar(schema: object) -> Grammar:
    return Grammar(kind="schema", source=json.dumps(schema))


def regex_grammar(pattern: str) -> Grammar:
    return Grammar(kind="regex", source=pattern)


async def bounded(driver: Driver, context_id: int, grammar: Grammar, **sampling: Any) -> Generated:
    return await driver.generate(context_id, PROMPT, grammar=grammar, **{"temperature": 1.0, **sampling})


def random_schema(chance: random.Random, depth: int = 0) -> dict[str, object]:
    """A schema all of whose texts are short."""
    kinds = ["enum", "const", "boolean", "null", "integer", "number", "string", "pattern"]
    kind = chance.choice(kinds + ["object", "array", "anyOf"] * (3 if depth < 3 else 0))
    if kind == "object":
        names = chance.sample(["name", "Größe", "a b", "x", "日付", 'quo"te'], chance.randint(1, 4))
        return {
            "type": "object",
            "properties": {name: random_schema(chance, depth + 1) for name in names},
            "required": chance.sample(names, chance.randint(0, len(names))),
            "additionalProperties": False,
        }
    if kind == "array":
        bounds = {"minItems": chance.randint(0, 1), "maxItems": chance.randint(1, 3)}
        return {"type": "array", "items": random_schema(chance, depth + 1), **bounds}
    if kind == "anyOf":
        return {"anyOf": [random_schema(chance, depth + 1) for _ in range(2)]}
    low = chance.randint(-50, 50)
    leaves: dict[str, dict[str, object]] = {
        "enum": {"enum": chance.sample(["red", "grün", 1, None, True, "a\nb", "🦜"], 3)},
        "const": {"const": chance.choice(["fixed", 7, [1, "two"], {"k": None}])},
        "integer": {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 1000)},
        "number": {"enum": [0.5, -1.25, 100]},
        "string": {"type": "string", "maxLength": chance.randint(0, 8)},
        "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"},
    }
    return leaves.get(kind, {"type": kind})


async def test_random_schemas_give_valid_json(tiny: Driver) -> None:
    chance = random.Random(7)
    schemas = [random_schema(chance) for _ in range(NUM_SCHEMAS)]
    outputs = await asyncio.gather(
        *(
            bounded(tiny, n, schema_grammar(schema), max_tokens=2000, seed=n)
            for n, schema in enumerate(schemas)
        )
    )
    assert [output.end.reason for output in outputs] == ["stop"] * NUM_SCHEMAS
    for schema, output in zip(schemas, outputs, strict=True):
        fastjsonschema.validate(schema, json.loads(output.text))
    assert len({output.text for output in outputs}) > NUM_SCHEMAS / 2


@pytest.mark.parametrize(
    "pattern",
    [
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
        r"(yes|no|maybe)",
        r"\d{1,3}(\.\d{1,3}){3}",
        r"\w{5}\s\w{1,9}",
        r"(?i)parrot",
        r"^anchored$",
        r"[ぁ-ん]{3}🦜?",
        r"/[^/]{1,5}/",
        r"(ab?)?",
    ],
)
async def test_regexes_are_matched_as_re2_reads_them(tiny: Driver, pattern: str) -> None:
    outputs = await asyncio.gather(
        *(bounded(tiny, n, regex_grammar(pattern), max_tokens=60, temperature=2.0) for n in range(8))
    )
    assert [output.end.reason for output in outputs] == ["stop"] * 8
    unmatched = [output.text for output in outputs if re2.fullmatch(pattern, output.text) is None]
    assert unmatched == []


async def test_greedy_outputs_are_bounded_too(tiny: Driver) -> None:
    output = await bounded(tiny, 1, regex_grammar("(left|right) [a-z]{3}"), temperature=0.0)
    assert re2.fullmatch("(left|right) [a-z]{3}", output.text) is not None
    assert output.end.exact
    assert output.end.num_tokens == len(PROMPT) + len(output.token_ids)


async def test_others_in_the_batch_write_what_they_write_alone(tiny: Driver) -> None:
    alone = [await tiny.generate(n, range(50 + n, 80 + n), max_tokens=20) for n in range(3)]
    both = await asyncio.gather(
        *(tiny.generate(100 + n, range(50 + n, 80 + n), max_tokens=20) for n in range(3)),
        *(bounded(tiny, 200 + n, schema_grammar({"type": "string"}), max_tokens=20) for n in range(3)),
    )
    assert [output.token_ids for output in both[:3]] == [output.token_ids for output in alone]


async def test_special_tokens_never_appear(start: StartDriver, plain_dir: Path) -> None:
    driver = await start(plain_dir)
    free_text = schema_grammar({"type": "string", "minLength": 100})
    outputs = await asyncio.gather(
        *(bounded(driver, n, free_text, max_tokens=150, temperature=50.0, seed=n) for n in range(16))
    )
    special = driver.engine.tokenizer.special_ids
    used = {token_id for output in outputs for token_id in output.token_ids}
    assert len(used) > 200
    assert used & special == set()


async def test_an_output_that_is_cut_off_says_so(tiny: Driver) -> None:
    output = await bounded(tiny, 1, schema_grammar({"type": "string", "minLength": 500}), max_tokens=5)
    assert (output.end.reason, len(output.token_ids)) == ("length", 5)
    assert output.text.startswith('"')


async def test_a_complete_text_ends_though_eos_is_ignored(tiny: Driver) -> None:
    output = await bounded(tiny, 1, regex_grammar("(yes|no)"), ignore_eos=True, min_tokens=50, max_tokens=60)
    assert output.end.reason == "stop"
    assert output.text in {"yes", "no"}


async def test_a_stop_string_ends_a_bounded_output(tiny: Driver) -> None:
    output = await bounded(tiny, 1, regex_grammar("[ab]{40}c{5}"), stop=("cc",), max_tokens=100)
    assert output.end.reason == "stop"
    assert re2.fullmatch("[ab]{40}", output.text) is not None


HOSTILE = {
    "a reference that leads to itself": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "a reference to another host": {"$ref": "http://192.0.2.1/schema.json"},
    "an unknown type": {"type": "foo"},
    "no text at all": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "a keyword that cannot be held to": {"type": "array", "uniqueItems": True},
    "exponentially many cases": {
        "allOf": [
            {"anyOf": [{"properties": {f"{side}{n}": {"type": "null"}}} for side in "ab"]} for n in range(20)
        ]
    },
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_schemas_are_refused_and_the_engine_goes_on(tiny: Driver, name: str) -> None:
    with pytest.raises(InvalidError, match="cannot be followed") as caught:
        await asyncio.wait_for(bounded(tiny, 1, schema_grammar(HOSTILE[name])), 3.0)
    assert caught.value.code == "grammar_unsupported"
    await tiny.free(1)
    assert (await bounded(tiny, 2, regex_grammar("ok"))).text == "ok"


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar(kind="schema", source="{"),
        Grammar(kind="schema", source='{"properties":{"a":' * 3000 + "{}" + "}}" * 3000),
        Grammar(kind="regex", source="(?=ahead)"),
        Grammar(kind="regex", source="(" * 100),
        Grammar(kind="regex", source=r"[^\x00-\x{10FFFF}]"),
        Grammar(kind="cobol", source="x"),
    ],
    ids=lambda grammar: grammar.source[:12],
)
async def test_what_is_no_grammar_is_refused(tiny: Driver, grammar: Grammar) -> None:
    with pytest.raises(InvalidError) as caught:
        await bounded(tiny, 1, grammar)
    assert caught.value.code == "grammar_unsupported"


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(a|b)*a(a|b){400}", "((((a{0,99}){0,99}){0,99}){0,99}){0,99}", "(x+x+)+y"]
)
async def test_costly_patterns_end_in_bounded_time(tiny: Driver, pattern: str) -> None:
    schema = schema_grammar({"type": "string", "pattern": pattern})
    output = await asyncio.wait_for(bounded(tiny, 1, schema, max_tokens=30), 10.0)
    assert output.text.startswith('"')


async def test_a_grammar_that_becomes_too_costly_fails_its_request_alone(
    tiny: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "_MAX_LEXER_STATES", 12)
    costly = bounded(tiny, 1, regex_grammar("(a|b)*a(a|b){40}c"), max_tokens=60)
    other = tiny.generate(2, PROMPT, max_tokens=60)
    failed, fine = await asyncio.gather(costly, other, return_exceptions=True)
    assert isinstance(failed, InvalidError)
    assert failed.code == "grammar_unsupported"
    assert isinstance(fine, Generated)
    assert fine.end.reason == "length"


@pytest.fixture
def slow_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Grammars compile when this is set; it is set at the end."""
    go_on = threading.Event()
    compile_now = grammar_module._compile

    def compile_later(*args: Any) -> Any:
        go_on.wait()
        return compile_now(*args)

    monkeypatch.setattr(grammar_module, "_compile", compile_later)
    yield go_on
    go_on.set()


async def _until_prefilled(engine: TorchEngine, num_tokens: int) -> None:
    async for _ in engine.notices():
        if engine.load().num_prefilled_tokens >= num_tokens:
            return


async def test_a_prompt_is_filled_and_others_decode_while_a_grammar_compiles(
    tiny: Driver, slow_compiler: threading.Event
) -> None:
    waiting = asyncio.create_task(bounded(tiny, 1, regex_grammar("(yes|no)")))
    other = await tiny.generate(2, PROMPT, max_tokens=10)
    assert other.end.reason == "length"
    assert tiny.engine.load().num_prefilled_tokens == 2 * len(PROMPT) - 1
    assert not waiting.done()
    slow_compiler.set()
    assert (await waiting).text in {"yes", "no"}


async def test_a_grammar_that_compiles_for_too_long_is_refused(
    tiny: Driver, slow_compiler: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "COMPILE_TIMEOUT_S", 0.05)
    with pytest.raises(InvalidError, match="takes more than"):
        await bounded(tiny, 1, regex_grammar("(yes|no)"))
    slow_compiler.set()
    assert (await bounded(tiny, 2, regex_grammar("(yes|no)"))).text in {"yes", "no"}


async def test_a_grammar_is_not_refused_for_the_time_that_others_compile(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_now = grammar_module._compile

    def compile_slowly(*args: Any) -> Any:
        time.sleep(0.05)
        return compile_now(*args)

    monkeypatch.setattr(grammar_module, "_compile", compile_slowly)
    monkeypatch.setattr(grammar_module, "COMPILE_TIMEOUT_S", 0.25)
    compiler = GrammarCompiler(load_tokenizer(str(tiny_dir)), (0,))
    bounds = await asyncio.gather(*(compiler.bind(regex_grammar(f"yes{i}")) for i in range(20)))
    compiler.close()
    assert len(bounds) == 20


async def test_what_waits_for_memory_outlives_one_that_waits_for_its_grammar(
    start: StartDriver, tiny_dir: Path, slow_compiler: threading.Event
) -> None:
    driver = await start(tiny_dir, kv_bytes=1 << 19)
    num_tokens = driver.engine.info.num_blocks * driver.engine.info.block_tokens * 2 // 3
    request = driver.generate_request(1, [11] * num_tokens, grammar=regex_grammar("(yes|no)"))
    first = asyncio.create_task(_collect(driver, request))
    await _until_prefilled(driver.engine, num_tokens - 1)
    second = asyncio.create_task(driver.generate(2, [12] * num_tokens, max_tokens=3))
    third = await driver.generate(3, PROMPT[:8], max_tokens=3)
    assert third.end.reason == "length"
    assert not second.done()
    slow_compiler.set()
    assert await first in {"yes", "no"}
    await driver.free(1)
    assert (await second).end.reason == "length"


async def _collect(driver: Driver, request: Any) -> str:
    return "".join([chunk.text async for chunk in driver.engine.generate(request)])


async def test_cancelling_frees_a_bounded_request_in_each_stage(
    tiny: Driver, slow_compiler: threading.Event
) -> None:
    grammar = schema_grammar({"type": "string", "minLength": 400})
    compiling = asyncio.create_task(bounded(tiny, 1, grammar, max_tokens=400))
    await tiny.fill(2, PROMPT)
    compiling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await compiling
    slow_compiler.set()
    chunks = tiny.engine.generate(tiny.generate_request(3, PROMPT, grammar=grammar, max_tokens=400))
    await anext(chunks)
    await chunks.aclose()
    await tiny.free(1, 2, 3)
    load = tiny.engine.load()
    assert (load.num_owned_blocks, load.num_running, load.num_waiting) == (0, 0, 0)


async def test_equal_grammars_compile_once_and_the_oldest_are_dropped(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    compile_now = grammar_module._compile

    def counting(grammar: Grammar, tokenizer: Any) -> Any:
        compiled.append(grammar.source)
        return compile_now(grammar, tokenizer)

    monkeypatch.setattr(grammar_module, "_compile", counting)
    monkeypatch.setattr(grammar_module, "CACHED_GRAMMARS", 2)
    compiler = GrammarCompiler(load_tokenizer(str(tiny_dir)), (0,))
    await asyncio.gather(*(compiler.bind(regex_grammar("a")) for _ in range(5)))
    for pattern in "babca":
        await compiler.bind(regex_grammar(pattern))
    compiler.close()
    assert compiled == ["a", "b", "c", "a"]
    with pytest.raises(EngineError):
        await compiler.bind(regex_grammar("d"))


async def test_an_output_ends_where_its_text_is_whole_and_the_model_says_so(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_dir))
    eos_id = min(tokenizer.special_ids)
    (letter,) = tokenizer.encode("a")
    (other,) = tokenizer.encode("b")
    masks = TokenMasks(tokenizer, eos_ids=[eos_id], vocab_size=tokenizer.vocab_size)
    device = torch.device("cpu")
    sampler = Sampler(vocab_size=tokenizer.vocab_size, eos_ids=[eos_id], device=device, masks=masks)
    compiler = GrammarCompiler(tokenizer, [eos_id])
    logits = torch.zeros(1, tokenizer.vocab_size)
    logits[0, [eos_id, other, letter]] = torch.tensor([9.0, 5.0, 1.0])

    async def choice(written: str, *, ignore_eos: bool = False) -> Choice:
        bound = await compiler.bind(regex_grammar("(aa)*"))
        for token_id in tokenizer.encode(written):
            bound.push(token_id)
        sampling = Sampling(ignore_eos=ignore_eos)
        return Choice(sampling=sampling, generator=torch.Generator(), bound=bound)

    def next_token(one: Choice) -> int | None:
        return sampler.sample(logits.clone(), [one])[0]

    assert next_token(await choice("")) == eos_id
    assert next_token(await choice("", ignore_eos=True)) != eos_id
    assert next_token(await choice("a")) not in {eos_id, other}
    finished = await compiler.bind(regex_grammar("a"))
    finished.push(letter)
    deaf = Choice(sampling=Sampling(ignore_eos=True), generator=torch.Generator(), bound=finished)
    assert next_token(deaf) == COMPLETE
    compiler.close()


async def test_the_engine_says_that_it_understands_grammars(tiny: Driver) -> None:
    assert tiny.engine.info.capabilities.structured_output
