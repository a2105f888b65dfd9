"""From an OpenAI body to calls: one for each answer that is wanted, in the order of `choices`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from parrot.core.executor.requests import Requests
from parrot.core.sessions import PartOf
from parrot.errors import InvalidError, TemplateError
from parrot.ports.engine import Tokenizer
from parrot.server.openai.bodies import CompletionBody, ParrotBody, SamplingBody, unsupported
from parrot.server.openai.chat_bodies import ChatBody, ChatMessage
from parrot.server.openai.hints import objective_of, part_of, with_headers
from parrot.server.openai.tools import Toolbox, written_calls, written_result
from parrot.types.ids import TenantId
from parrot.types.objective import Objective
from parrot.types.sampling import MAX_TOKENS_CAP
from parrot.types.template import PlaceholderPiece, parse_template
from parrot.wire.requests import (
    CallSpec,
    MessageSpec,
    OutputParameter,
    OutputSpec,
    SamplingSpec,
    SubmitCalls,
    TokensParameter,
    ToldSampling,
    ToolOutput,
    ValueParameter,
    VariableParameter,
)

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's own bound on a completion for which none is given."""
OUTPUT = "_answer"
"""The placeholder of the answer, which no client writes by chance."""
ANSWER = MessageSpec(role="assistant", content=f"{{{{{OUTPUT}}}}}")
MARK = "_mark"
"""How the placeholders of texts begin that end with a breakpoint."""
MAX_BREAKPOINTS = 16
"""Of one prompt; the last ones count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a body asks for."""

    calls: tuple[CallSpec, ...]
    num_choices: int
    """Answers to each prompt; those of one prompt stand together."""
    prompts: tuple[str, ...]
    """What an echo repeats, one for each prompt; empty for chats."""
    objective: Objective
    parrot: ParrotBody | None
    """Set when the calls are a part of an application."""
    labels: Mapping[str, str]
    part_of: PartOf
    opaque: bool = True
    """The prompts have no structure but what is found in them."""

    def with_headers(self, headers: Mapping[str, str]) -> "Wanted":
        """The same, for a request with these headers."""
        part_of = with_headers(self.part_of, headers)
        labels = {**self.labels, "session": part_of.chain} if part_of.chain else self.labels
        return replace(self, part_of=part_of, labels=labels)

    def submission(self) -> SubmitCalls:
        """The calls as they are submitted."""
        return SubmitCalls.model_construct(calls=self.calls)


def completion_calls(body: CompletionBody, requests: Requests) -> Wanted:
    """The calls of a completion.

    Raises:
        InvalidError, NotFoundError, UnavailableError: as `Requests.model`, and for token ids that the model
            does not have.
    """
    model = requests.model(body.model)
    _check_bias(body, model.tokenizer)
    without_bos = body.add_special_tokens is False
    most = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    calls: list[CallSpec] = []
    echoes: list[str] = []
    for prompt in body.prompts():
        inputs: dict[str, ValueParameter | VariableParameter]
        if body.member is None:
            value = _prompt(prompt, model.tokenizer, model.model_hash, without_bos=without_bos)
            template, inputs, echo = "{{prompt}}", {"prompt": value}, value.value
        else:
            template = echo = _template(prompt)
            inputs = inputs_of(body.member, [template])
        for choice in range(body.num_choices):
            output = _output(body, choice, most=most, logprobs=body.logprobs)
            calls.append(
                CallSpec.model_construct(
                    model=model.name,
                    template=f"{template}{{{{{OUTPUT}}}}}",
                    parameters={**inputs, OUTPUT: output},
                )
            )
        echoes.append(echo)
    return Wanted(
        calls=tuple(calls),
        num_choices=body.num_choices,
        prompts=tuple(echoes),
        objective=objective_of(body),
        parrot=body.member,
        labels=body.labels,
        part_of=part_of(body),
    )


def chat_calls(body: ChatBody, requests: Requests, tenant: TenantId) -> Wanted:
    """The calls of a chat completion. Without a bound, an answer may fill the model's window.

    Raises:
        InvalidError, NotFoundError, UnavailableError: as `Requests.model`.
        CallError: `context_overflow`.
    """
    model = requests.model(body.model)
    _check_bias(body, model.tokenizer)
    toolbox = body.toolbox()
    written = Contents.of(body.messages, templates=body.member is not None)
    messages = (*lowered_messages(body.messages, toolbox, written), ANSWER)
    inputs: Mapping[str, ValueParameter | VariableParameter] = written.marked
    if body.member is not None:
        inputs = inputs_of(body.member, [m.content for m in messages[:-1]])
    schema = None if body.response_format is None else body.response_format.schema_of_output()
    if schema is not None and toolbox is not None:
        raise unsupported("response_format", "not together with tools")

    def call(choice: int, most: int) -> CallSpec:
        output = _output(body, choice, most=most, logprobs=body.num_logprobs, schema=schema, toolbox=toolbox)
        return CallSpec.model_construct(
            model=model.name, messages=messages, parameters={**inputs, OUTPUT: output}
        )

    most = body.most_tokens
    if most is None and body.member is not None and inputs:
        # What will be left of the window is not known before the inputs are.
        most = SamplingSpec().max_tokens
    elif most is None:
        left = model.context_tokens - requests.num_prompt_tokens(tenant, call(0, 1))
        most = min(MAX_TOKENS_CAP, max(1, left, body.min_tokens))
    return Wanted(
        calls=tuple(call(choice, most) for choice in range(body.num_choices)),
        num_choices=body.num_choices,
        prompts=(),
        objective=objective_of(body),
        parrot=body.member,
        labels=body.labels,
        part_of=part_of(body),
    )


def inputs_of(parrot: ParrotBody, templates: Iterable[str]) -> dict[str, ValueParameter | VariableParameter]:
    """What the placeholders of an application's prompt stand for.

    Raises:
        TemplateError: `bad_placeholder`; `unused_parameter`, of an input that stands nowhere.
    """
    inputs = dict(parrot.inputs)
    named: set[str] = set()
    for template in templates:
        for piece in parse_template(template):
            if isinstance(piece, PlaceholderPiece):
                named.add(piece.name)
                inputs.setdefault(piece.name, VariableParameter(variable=piece.name))
    for name in inputs.keys() - named:
        raise TemplateError(
            f"the input {name!r} has no placeholder {{{{{name}}}}}",
            code="unused_parameter",
            param=f"parrot.inputs.{name}",
        )
    return inputs


@dataclass(slots=True, kw_only=True)
class Contents:
    """How contents of messages are written as templates: as data, or, with `templates`, as they are."""

    templates: bool = False
    num_passed_over: int = 0
    """Breakpoints that are still to be passed over, as there are too many."""
    marked: dict[str, ValueParameter] = field(default_factory=dict)
    """Texts that end with a breakpoint, by the placeholder that stands for each."""

    @classmethod
    def of(cls, messages: Sequence[ChatMessage], *, templates: bool) -> "Contents":
        """For these messages."""
        contents = (message.content for message in messages)
        parts = (part for content in contents if isinstance(content, tuple) for part in content)
        num_marked = sum(part.prompt_cache_breakpoint is not None for part in parts)
        return cls(templates=templates, num_passed_over=max(0, num_marked - MAX_BREAKPOINTS))

    def write(self, text: str) -> str:
        """A text."""
        return text if self.templates else literal(text)

    def write_message(self, message: ChatMessage) -> str:
        """A message's content; up to its breakpoints it stands in placeholders, whose ends are kept apart."""
        if self.templates or message.content is None or isinstance(message.content, str):
            return self.write(message.text)
        written, text = [], ""
        for part in message.content:
            text += part.words
            if part.prompt_cache_breakpoint is None or not text:
                continue
            self.num_passed_over -= 1
            if self.num_passed_over < 0:
                name = f"{MARK}{len(self.marked)}"
                self.marked[name] = ValueParameter.model_construct(value=text)
                written.append(f"{{{{{name}}}}}")
                text = ""
        return "".join(written) + literal(text)


def lowered_messages(
    messages: Sequence[ChatMessage], toolbox: Toolbox | None, contents: Contents
) -> Iterator[MessageSpec]:
    """A conversation as a call has it. Tools, their calls and what these gave become text, as models without
    a word for them need it; what the model is told of tools stands first.
    """
    told = None if toolbox is None else toolbox.description()
    names: dict[str, str] = {}
    for message in messages:
        calls = message.tool_calls or ()
        names.update((call.id, call.function.name) for call in calls)
        if message.role == "tool":
            name = names.get(message.tool_call_id or "") or message.name or "a function"
            yield MessageSpec(role="user", content=contents.write(written_result(name, message.text)))
            continue
        content = contents.write_message(message)
        if calls:
            content += contents.write(
                written_calls((call.function.name, call.function.arguments) for call in calls)
            )
        role: Literal["system", "user", "assistant"]
        role = "system" if message.role == "developer" else message.role
        if told is not None and role == "system":
            yield MessageSpec(role=role, content=f"{content}\n\n{literal(told)}")
            told = None
            continue
        if told is not None:
            yield MessageSpec(role="system", content=literal(told))
            told = None
        yield MessageSpec(role=role, content=content)


def literal(text: str) -> str:
    """A text as a template that stands for it and has no placeholder."""
    return text.replace("{{", "{{{{")


def unwritten(template: str) -> str:
    """The text that `literal` was given."""
    return template.replace("{{{{", "{{")


def _check_bias(body: SamplingBody, tokenizer: Tokenizer) -> None:
    for token in body.logit_bias or {}:
        if int(token) >= tokenizer.vocab_size:
            raise InvalidError(
                f"token id {token} is not below the vocabulary's {tokenizer.vocab_size}", param="logit_bias"
            )


def _template(prompt: str | Sequence[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    raise InvalidError("a prompt of an application is a text, not token ids", param="prompt")


def _prompt(
    prompt: str | Sequence[int], tokenizer: Tokenizer, model_hash: str, *, without_bos: bool
) -> ValueParameter:
    if isinstance(prompt, str):
        if not without_bos:
            return ValueParameter.model_construct(value=prompt)
        prompt = tokenizer.encode(prompt)
    strange = next((i for i in prompt if i >= tokenizer.vocab_size), None)
    if strange is not None:
        raise InvalidError(
            f"token id {strange} is not below the vocabulary's {tokenizer.vocab_size}", param="prompt"
        )
    return TokensParameter.model_construct(
        value=tokenizer.decode(prompt), token_ids=tuple(prompt), model_hash=model_hash
    )


def _output(
    body: SamplingBody,
    choice: int,
    *,
    most: int,
    logprobs: int | None,
    schema: dict[str, object] | None = None,
    toolbox: Toolbox | None = None,
) -> OutputParameter:
    predicted = None if body.predicted_tokens is None else min(body.predicted_tokens, MAX_TOKENS_CAP)
    sampling = ToldSampling.model_construct(
        max_tokens=most,
        min_tokens=body.min_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=max(0, body.top_k),
        min_p=body.min_p,
        stop=body.stop_strings,
        # Choices of one seed are to differ, and to come again.
        seed=None if body.seed is None else (body.seed + choice) % 2**53,
        ignore_eos=body.ignore_eos,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=tuple((int(token), bias) for token, bias in (body.logit_bias or {}).items()),
        expected_tokens=predicted,
        logprobs=logprobs,
    )
    names = body.member.outputs if body.member is not None else ()
    variable = names[choice] if choice < len(names) else None
    if toolbox is None:
        output = OutputSpec.model_construct(variable=variable, sampling=sampling, schema_=schema)
    else:
        output = ToolOutput.model_construct(
            variable=variable,
            sampling=sampling,
            schema_=toolbox.schema(),
            or_text=not toolbox.required,
        )
    return OutputParameter.model_construct(output=output)
