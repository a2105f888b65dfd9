r"""From what a client sent to a program: templates and chat messages become segments (paper, 4.1).

Checking needs no model and is done when a call is submitted; lowering needs the model's tokenizer, and is
done once there is one.

Chat messages are rendered by the model's own chat template with a mark in place of each content, and the
rendering is cut at the marks:

    <|im_start|>system\n ▒▒▒▒ <|im_end|>\n<|im_start|>user\n ▒▒▒▒ <|im_end|>\n<|im_start|>assistant\n
    └──── markup ───────┘ content └───────── markup ─────────┘ content └─────────── markup ───────────┘

So markup may have special tokens and contents may not, and every placeholder keeps its boundaries.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from parrot.core.grammars import compile_grammar
from parrot.core.limits import Limits
from parrot.core.locations import at
from parrot.core.transforms import compile_transforms
from parrot.errors import InvalidError, TemplateError, TooLargeError
from parrot.ports.engine import Tokenizer
from parrot.types.ids import VariableId
from parrot.types.program import (
    ConstantSegment,
    InputSegment,
    OutputSegment,
    Program,
    Segment,
    Transform,
)
from parrot.types.sampling import Grammar, Sampling
from parrot.types.template import Piece, PlaceholderPiece, TextPiece, parse_template
from parrot.wire.requests import CallSpec, OutputParameter, OutputSpec

_PADDING = "\t\t\t"
"""White space around a mark; where it is missing afterwards, the chat template trims contents."""
_MARK = "content{}x6b1f0c2e9d7a4835"
_MARKS = re.compile(f"({_PADDING})?{_MARK.format('([0-9]+)')}({_PADDING})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedOutput:
    """How an output placeholder is generated."""

    sampling: Sampling
    transforms: tuple[Transform, ...]
    grammar: Grammar | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedMessage:
    """A chat message with its content's pieces."""

    role: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCall:
    """A call that is right in itself; has either a template's pieces or messages.

    What follows the last output is not among the pieces: nothing is conditioned on it.
    """

    template: tuple[Piece, ...] | None
    messages: tuple[CheckedMessage, ...] | None
    outputs: Mapping[str, CheckedOutput]


def check_call(spec: CallSpec, limits: Limits) -> CheckedCall:
    """Check everything about a call that can be known without its model and its graph.

    Raises:
        TemplateError: `bad_placeholder`, `unbound_placeholder`, `unused_parameter`, `duplicate_output`,
            `no_output`, `empty_prompt`, `bad_parameter`, `bad_messages`.
        InvalidError: `missing_field`, `too_many`, `invalid`, `grammar_unsupported`, `regex_unsupported`,
            `regex_too_large`, `bad_transform`.
        TooLargeError: `too_large`.
    """
    texts = _texts(spec)
    num_bytes = sum(len(text.encode()) for _, text in texts)
    if num_bytes > limits.max_template_bytes:
        raise TooLargeError(
            f"a call's template may have {limits.max_template_bytes:,} bytes, this one has {num_bytes:,}",
            param="messages" if spec.messages is not None else "template",
            data={"limit_bytes": limits.max_template_bytes},
        )
    parsed: list[tuple[Piece, ...]] = []
    for place, text in texts:
        with at(place):
            parsed.append(parse_template(text))
    _check_placeholders(spec, [place for place, _ in texts], parsed, limits)
    outputs = {
        name: _check_output(name, parameter.output, limits)
        for name, parameter in spec.parameters.items()
        if isinstance(parameter, OutputParameter)
    }
    if spec.messages is None:
        return CheckedCall(template=_check_template(parsed[0], outputs), messages=None, outputs=outputs)
    messages = [
        CheckedMessage(role=message.role, pieces=pieces)
        for message, pieces in zip(spec.messages, parsed, strict=True)
    ]
    return CheckedCall(template=None, messages=_check_messages(messages, outputs), outputs=outputs)


def lower(
    checked: CheckedCall,
    *,
    inputs: Mapping[str, VariableId],
    outputs: Mapping[str, VariableId],
    model: str,
    tokenizer: Tokenizer,
    opaque: bool = False,
    add_bos: bool = True,
    published: tuple[str, ...] = (),
) -> Program:
    """The program of a checked call, its placeholders bound to variables; `opaque` and, for a template,
    `add_bos` as `Program` has them. `published` are beginnings of prompts, or of a first message, that all
    tenants may share.

    Raises:
        TemplateError: `bad_messages`: the model's chat template refuses the messages, or has none.
    """
    if checked.template is not None:
        pieces: Iterable[Piece | ConstantSegment] = _as_markup(checked.template)
    else:
        pieces, add_bos = _render(checked.messages or (), checked.outputs, tokenizer)
    segments: list[Segment] = []
    for piece in pieces:
        match piece:
            case TextPiece():
                segments.append(ConstantSegment(text=piece.text))
            case ConstantSegment():
                segments.append(piece)
            case PlaceholderPiece() if piece.name in checked.outputs:
                output = checked.outputs[piece.name]
                segments.append(
                    OutputSegment(
                        placeholder=piece.name,
                        variable_id=outputs[piece.name],
                        sampling=output.sampling,
                        transforms=output.transforms,
                        grammar=output.grammar,
                    )
                )
            case PlaceholderPiece():
                segments.append(InputSegment(placeholder=piece.name, variable_id=inputs[piece.name]))
    merged, is_chat = _merged(segments), checked.template is None
    if published and opaque:
        merged = _with_shared_markup(merged) if is_chat else merged
    elif published:
        merged = _marked_shared(merged, published, is_chat=is_chat)
    return Program(
        model=model,
        segments=merged,
        add_bos=add_bos,
        opaque=opaque,
        published=published if opaque else (),
    )


def _texts(spec: CallSpec) -> list[tuple[str, str]]:
    """The call's templates, each with its place."""
    if spec.template is not None and spec.messages is not None:
        raise InvalidError("a call has a template or messages, not both", param="messages")
    if spec.template is not None:
        return [("template", spec.template)]
    if spec.messages is not None:
        return [(f"messages[{i}].content", message.content) for i, message in enumerate(spec.messages)]
    raise InvalidError(
        "a call needs a template, messages or a function", code="missing_field", param="template"
    )


def _check_placeholders(
    spec: CallSpec, places: Sequence[str], parsed: Sequence[Sequence[Piece]], limits: Limits
) -> None:
    """Placeholders and parameters agree with each other."""
    seen: set[str] = set()
    num_placeholders = 0
    for place, pieces in zip(places, parsed, strict=True):
        for piece in pieces:
            if not isinstance(piece, PlaceholderPiece):
                continue
            num_placeholders += 1
            if num_placeholders > limits.max_placeholders:
                raise InvalidError(
                    f"a call may have {limits.max_placeholders} placeholders", code="too_many", param=place
                )
            with at(place):
                _check_placeholder(spec, piece, seen)
            seen.add(piece.name)
    for name in spec.parameters:
        if name not in seen:
            raise TemplateError(
                f"the parameter {name!r} has no placeholder {{{{{name}}}}}",
                code="unused_parameter",
                param=f"parameters.{name}",
            )


def _check_placeholder(spec: CallSpec, piece: PlaceholderPiece, seen: set[str]) -> None:
    parameter = spec.parameters.get(piece.name)
    data = {"position": piece.position}
    if parameter is None:
        message = f"the placeholder {{{{{piece.name}}}}} at character {piece.position} has no parameter"
        raise TemplateError(message, code="unbound_placeholder", data=data)
    is_output = isinstance(parameter, OutputParameter)
    if piece.kind is not None and (piece.kind == "output") != is_output:
        message = f"the template says that {piece.name!r} is an {piece.kind}, its parameter says otherwise"
        raise TemplateError(message, code="bad_parameter", data=data)
    if is_output and piece.name in seen:
        message = f"the output {{{{{piece.name}}}}} stands twice; it can be generated once"
        raise TemplateError(message, code="duplicate_output", data=data)


def _check_output(name: str, spec: OutputSpec, limits: Limits) -> CheckedOutput:
    with at(f"parameters.{name}.output"):
        sampling = Sampling(**vars(spec.sampling))
        if sampling.min_tokens > sampling.max_tokens:
            raise InvalidError("min_tokens is above max_tokens", param="sampling.min_tokens")
        return CheckedOutput(
            sampling=sampling,
            transforms=compile_transforms(spec.transforms, limits),
            grammar=compile_grammar(spec, limits),
        )


def _check_template(pieces: Sequence[Piece], outputs: Mapping[str, CheckedOutput]) -> tuple[Piece, ...]:
    upto = _last_output(pieces, outputs)
    if upto is None:
        raise TemplateError("a call needs an output placeholder", code="no_output", param="template")
    if _is_output(pieces[0], outputs):
        raise TemplateError(
            "nothing stands before the first output, so there is nothing to continue",
            code="empty_prompt",
            param="template",
        )
    return tuple(pieces[: upto + 1])


def _check_messages(
    messages: Sequence[CheckedMessage], outputs: Mapping[str, CheckedOutput]
) -> tuple[CheckedMessage, ...]:
    last = len(messages) - 1
    if messages[last].role != "assistant" or not outputs:
        raise TemplateError(
            "the last message has to be the assistant's, with an output to be generated in it",
            code="no_output",
            param=f"messages[{last}]",
        )
    upto = 0
    for index, message in enumerate(messages):
        found = _last_output(message.pieces, outputs)
        if found is None:
            continue
        if message.role != "assistant":
            raise TemplateError(
                f"an output stands in the message of the {message.role}; only the assistant's are generated",
                code="bad_messages",
                param=f"messages[{index}]",
            )
        last, upto = index, found
    answer = replace(messages[last], pieces=messages[last].pieces[: upto + 1])
    if last == 0 and _is_output(_trimmed(answer.pieces, left=True, right=False)[0], outputs):
        raise TemplateError(
            "nothing stands before the first output, so there is nothing to continue",
            code="empty_prompt",
            param="messages[0]",
        )
    return (*messages[:last], answer)


def _render(
    messages: Sequence[CheckedMessage], outputs: Mapping[str, CheckedOutput], tokenizer: Tokenizer
) -> tuple[list[Piece | ConstantSegment], bool]:
    """The messages' pieces with markup between them, and whether a beginning of sequence is to be added.

    Only marks are rendered, never contents, so nothing in a content can pass for a mark or for markup.
    """
    *before, answer = messages
    answer_pieces = _trimmed(answer.pieces, left=True, right=False)
    starts_with_output = _is_output(answer_pieces[0], outputs)
    shown = before if starts_with_output else messages
    marked = [
        {"role": message.role, "content": f"{_PADDING}{_MARK.format(index)}{_PADDING}"}
        for index, message in enumerate(shown)
    ]
    text = tokenizer.apply_chat_template(marked, add_generation_prompt=starts_with_output)
    marks = list(_MARKS.finditer(text))
    if sorted(int(mark[2]) for mark in marks) != list(range(len(shown))):
        raise TemplateError(
            "the model's chat template leaves out or repeats some of these messages",
            code="bad_messages",
            param="messages",
        )
    pieces: list[Piece | ConstantSegment] = []
    done = 0
    for mark in marks:
        pieces.append(ConstantSegment(text=text[done : mark.start()], markup=True))
        pieces.extend(_trimmed(shown[int(mark[2])].pieces, left=mark[1] is None, right=mark[3] is None))
        done = mark.end()
    if starts_with_output:
        pieces.append(ConstantSegment(text=text[done:], markup=True))
        pieces.extend(answer_pieces)
    bos_text = tokenizer.decode(tokenizer.bos_ids) if tokenizer.bos_ids else ""
    return pieces, not (bos_text and text.startswith(bos_text))


def _trimmed(pieces: Sequence[Piece], *, left: bool, right: bool) -> list[Piece]:
    """A content's pieces without the white space at its ends."""
    trimmed = list(pieces)
    if left and trimmed and isinstance(trimmed[0], TextPiece):
        trimmed[0] = replace(trimmed[0], text=trimmed[0].text.lstrip())
    if right and trimmed and isinstance(trimmed[-1], TextPiece):
        trimmed[-1] = replace(trimmed[-1], text=trimmed[-1].text.rstrip())
    return [piece for piece in trimmed if not isinstance(piece, TextPiece) or piece.text]


def _merged(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Segments with neighbouring constants of one kind joined, and empty ones dropped."""
    merged: list[Segment] = []
    for segment in segments:
        before = merged[-1] if merged else None
        if not isinstance(segment, ConstantSegment):
            merged.append(segment)
        elif isinstance(before, ConstantSegment) and before.markup == segment.markup:
            merged[-1] = replace(before, text=before.text + segment.text)
        elif segment.text:
            merged.append(segment)
    return tuple(merged)


def _marked_shared(
    segments: tuple[Segment, ...], published: tuple[str, ...], *, is_chat: bool
) -> tuple[Segment, ...]:
    """Segments with what is published at their beginning marked, and cut off from what follows it.

    Before a first message stands markup of the model's chat template, which holds nothing of anybody's.
    """
    first = 1 if is_chat else 0
    segment = segments[first] if len(segments) > first else None
    if not isinstance(segment, ConstantSegment):
        return segments
    text = max((text for text in published if text and segment.text.startswith(text)), key=len, default="")
    if not text:
        return segments
    rest = segment.text[len(text) :]
    after = (replace(segment, text=rest),) if rest else ()
    shared = replace(segment, text=text, shared=True)
    return (*_with_shared_markup(segments[:first]), shared, *after, *segments[first + 1 :])


def _with_shared_markup(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Segments with the first, if it is markup, marked as shared."""
    first = segments[0] if segments else None
    if not (isinstance(first, ConstantSegment) and first.markup):
        return segments
    return (replace(first, shared=True), *segments[1:])


def _as_markup(pieces: Iterable[Piece]) -> Iterator[Piece | ConstantSegment]:
    """A raw template's text; its developer may write special tokens in it."""
    for piece in pieces:
        yield ConstantSegment(text=piece.text, markup=True) if isinstance(piece, TextPiece) else piece


def _last_output(pieces: Sequence[Piece], outputs: Mapping[str, CheckedOutput]) -> int | None:
    found = [index for index, piece in enumerate(pieces) if _is_output(piece, outputs)]
    return found[-1] if found else None


def _is_output(piece: Piece, outputs: Mapping[str, CheckedOutput]) -> bool:
    return isinstance(piece, PlaceholderPiece) and piece.name in outputs
