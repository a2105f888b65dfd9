"""From an OpenAI body to calls: one for each answer that is wanted, in the order of `choices`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from parrot.core.executor.requests import Requests
from parrot.errors import InvalidError
from parrot.ports.engine import Tokenizer
from parrot.server.openai.bodies import CompletionBody, SamplingBody, unsupported
from parrot.server.openai.chat_bodies import ChatBody, ChatMessage
from parrot.server.openai.tools import Toolbox, written_calls, written_result
from parrot.types.ids import TenantId
from parrot.types.objective import Objective
from parrot.types.sampling import MAX_TOKENS_CAP
from parrot.wire.requests import (
    CallSpec,
    MessageSpec,
    OutputParameter,
    OutputSpec,
    SubmitCalls,
    TokensParameter,
    ToldSampling,
    ToolOutput,
    ValueParameter,
)

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's own bound on a completion for which none is given."""
ANSWER = MessageSpec(role="assistant", content="{{text}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a body asks for."""

    calls: tuple[CallSpec, ...]
    num_choices: int
    """Answers to each prompt; those of one prompt stand together."""
    prompts: tuple[str, ...]
    """What an echo repeats, one for each prompt; empty for chats."""
    objective: Objective

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
    without_bos = body.add_special_tokens is False
    prompts = [
        _prompt(prompt, model.tokenizer, model.model_hash, without_bos=without_bos)
        for prompt in body.prompts()
    ]
    most = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    calls = [
        CallSpec.model_construct(
            model=model.name,
            template="{{prompt}}{{text}}",
            parameters={
                "prompt": prompt,
                "text": _output(body, choice, most=most, logprobs=body.logprobs),
            },
        )
        for prompt in prompts
        for choice in range(body.num_choices)
    ]
    return Wanted(
        calls=tuple(calls),
        num_choices=body.num_choices,
        prompts=tuple(prompt.value for prompt in prompts),
        objective=objective_of(body),
    )


def chat_calls(body: ChatBody, requests: Requests, tenant: TenantId) -> Wanted:
    """The calls of a chat completion. Without a bound, an answer may fill the model's window.

    Raises:
        InvalidError, NotFoundError, UnavailableError: as `Requests.model`.
        CallError: `context_overflow`.
    """
    model = requests.model(body.model)
    toolbox = body.toolbox()
    messages = (*lowered_messages(body.messages, toolbox), ANSWER)
    schema = None if body.response_format is None else body.response_format.schema_of_output()
    if schema is not None and toolbox is not None:
        raise unsupported("response_format", "not together with tools")

    def call(choice: int, most: int) -> CallSpec:
        output = _output(body, choice, most=most, logprobs=body.num_logprobs, schema=schema, toolbox=toolbox)
        return CallSpec.model_construct(model=model.name, messages=messages, parameters={"text": output})

    most = body.most_tokens
    if most is None:
        left = model.context_tokens - requests.num_prompt_tokens(tenant, call(0, 1))
        most = min(MAX_TOKENS_CAP, max(1, left, body.min_tokens))
    return Wanted(
        calls=tuple(call(choice, most) for choice in range(body.num_choices)),
        num_choices=body.num_choices,
        prompts=(),
        objective=objective_of(body),
    )


def objective_of(body: SamplingBody) -> Objective:
    """Somebody waits for an answer, unless its sender says that it has time."""
    later = body.service_tier == "flex" or (body.priority is not None and body.priority > 0)
    return "throughput" if later else "latency"


def lowered_messages(messages: Sequence[ChatMessage], toolbox: Toolbox | None) -> Iterator[MessageSpec]:
    """A conversation as a call has it. Tools, their calls and what these gave become text, as models without
    a word for them need it; what the model is told of tools stands first.
    """
    told = None if toolbox is None else toolbox.description()
    names: dict[str, str] = {}
    for message in messages:
        calls = message.tool_calls or ()
        names.update((call.id, call.function.name) for call in calls)
        text = message.text
        if calls:
            text += written_calls((call.function.name, call.function.arguments) for call in calls)
        if message.role == "tool":
            name = names.get(message.tool_call_id or "") or message.name or "a function"
            yield MessageSpec(role="user", content=literal(written_result(name, text)))
            continue
        role: Literal["system", "user", "assistant"]
        role = "system" if message.role == "developer" else message.role
        if told is not None and role == "system":
            text, told = f"{text}\n\n{told}", None
        elif told is not None:
            yield MessageSpec(role="system", content=literal(told))
            told = None
        yield MessageSpec(role=role, content=literal(text))


def literal(text: str) -> str:
    """A text as a template that stands for it and has no placeholder."""
    return text.replace("{{", "{{{{")


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
        logprobs=logprobs,
    )
    if toolbox is None:
        output = OutputSpec.model_construct(sampling=sampling, schema_=schema)
    else:
        output = ToolOutput.model_construct(
            sampling=sampling, schema_=toolbox.schema(), or_text=not toolbox.required
        )
    return OutputParameter.model_construct(output=output)
