"""Outputs that are JSON under a schema, or any text that does not begin as JSON does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch_driver import VARIANTS, StartDriver, Variant

from parrot.types.sampling import Grammar

SCHEMA = {
    "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "type": "object",
    "properties": {"name": {"const": "f"}, "arguments": {"$ref": "#/$defs/n"}},
    "required": ["name", "arguments"],
    "additionalProperties": False,
}
EITHER = Grammar(kind="text_or_schema", source=json.dumps(SCHEMA))


@pytest.mark.parametrize("opening", ["{", "["])
async def test_what_begins_as_json_is_json_under_the_schema(
    model_dirs: Callable[[Variant], Path], start: StartDriver, opening: str
) -> None:
    driver = await start(model_dirs(VARIANTS[0]))
    prompt = [(7 * i) % 350 + 5 for i in range(20)]
    begun = 0
    for seed in range(40):
        output = await driver.generate(
            seed + 1, prompt, grammar=EITHER, max_tokens=60, temperature=3.0, seed=seed
        )
        if output.text.startswith(opening):
            begun += 1
            assert json.loads(output.text).keys() == {"name", "arguments"}
            assert output.end.reason == "stop"
    assert begun == 0 or opening == "{"


async def test_other_text_goes_on_for_as_long_as_it_may(
    model_dirs: Callable[[Variant], Path], start: StartDriver
) -> None:
    driver = await start(model_dirs(VARIANTS[0]))
    prompt = [(7 * i) % 350 + 5 for i in range(20)]
    output = await driver.generate(1, prompt, grammar=EITHER, max_tokens=30, ignore_eos=True)
    assert output.text[0] not in "{["
    assert len(output.token_ids) == 30
    assert output.end.reason == "length"
