"""The template language, case by case."""

import pytest

from parrot.errors import TemplateError
from parrot.types.template import (
    Piece,
    PlaceholderKind,
    PlaceholderPiece,
    TextPiece,
    parse_template,
    write_template,
)


def text(literal: str, position: int) -> TextPiece:
    return TextPiece(text=literal, position=position)


def hole(name: str, kind: PlaceholderKind | None, position: int) -> PlaceholderPiece:
    return PlaceholderPiece(name=name, kind=kind, position=position)


@pytest.mark.parametrize(
    ("template", "pieces"),
    [
        ("", ()),
        ("plain", (text("plain", 0),)),
        ("{{a}}", (hole("a", None, 0),)),
        ("{{  a }}", (hole("a", None, 0),)),
        ("{{input:a}}{{output:b}}", (hole("a", "input", 0), hole("b", "output", 11))),
        ("{{input}}", (hole("input", None, 0),)),
        ("x {{a}} y", (text("x ", 0), hole("a", None, 2), text(" y", 7))),
        ("{{{{", (text("{{", 0),)),
        ("{{{{a}}}}", (text("{{a}}}}", 0),)),
        ("{{a}}}", (hole("a", None, 0), text("}", 5))),
        ('{"k":{{{a}}}', (text('{"k":{', 0), hole("a", None, 6), text("}", 11))),
        ("{{{{{{a}}", (text("{{", 0), hole("a", None, 4))),
        (
            "{% for x in y %} {0.__class__} %s $(id) }} {",
            (text("{% for x in y %} {0.__class__} %s $(id) }} {", 0),),
        ),
    ],
)
def test_templates_read_as_documented(template: str, pieces: tuple[Piece, ...]) -> None:
    assert parse_template(template) == pieces


@pytest.mark.parametrize(
    "template",
    ["{{a b}}", "{{}}", "{{ }}", "{{1x}}", "{{__import__('os')}}", "{{a.b}}", "{{a|upper}}", "{{a", "{{a}",
     "{{7*7}}", "{{output: a}}", "{{both:a}}", "{{" + "a" * 65 + "}}", "{{é}}", "{{a\n}}"],
)  # fmt: skip
def test_a_bad_placeholder_is_refused_with_its_position(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template("ab" + template)
    assert (caught.value.code, caught.value.data["position"]) == ("bad_placeholder", 2)


def test_the_message_never_shows_much_of_the_text() -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template("{{" + "\u202e secret" * 100)
    assert len(caught.value.message) < 250
    assert "\u202e" not in caught.value.message


def test_a_brace_before_a_placeholder_survives_writing() -> None:
    pieces = (text("{{{", 0), hole("a", "output", 0))
    assert parse_template(write_template(pieces))[0] == text("{{{", 0)
