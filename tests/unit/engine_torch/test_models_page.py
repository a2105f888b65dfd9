"""The page on models says what the tests check."""

import re
from pathlib import Path

import pytest
from test_model_breadth import FAST, GENERIC, REFUSED
from torch_driver import VARIANTS, Variant

from parrot.engine.torch.models.registry import FAST_FAMILIES

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (fast|transformers) \|", PAGE, re.MULTILINE))
REFUSED_ROWS = PAGE.partition("## What is refused")[2].partition("##")[0]


def families(models: tuple[Variant, ...]) -> set[str]:
    return {model.config_class.model_type for model in models}


def test_the_fast_families_are_those_that_have_an_implementation() -> None:
    fast = {family for family, way in ROWS.items() if way == "fast"}
    assert fast == set(FAST_FAMILIES) == families((*VARIANTS, *FAST))


def test_every_other_family_on_the_page_is_checked_and_the_other_way_round() -> None:
    others = {family for family, way in ROWS.items() if way == "transformers"}
    assert others == families(GENERIC) - set(FAST_FAMILIES)


@pytest.mark.parametrize("model", [model for model, _ in REFUSED], ids=lambda v: v.name)
def test_a_refused_family_is_named(model: Variant) -> None:
    assert f"`{model.config_class.model_type}`" in REFUSED_ROWS
