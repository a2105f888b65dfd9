"""What OpenAI clients send, as far as it can be served.

Fields that clients send and that change nothing here are taken; fields that would change the answer's
meaning and are not served are refused, by name, never passed over. A field set to null counts as absent, but
for those that have a default.
"""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from parrot.errors import InvalidError
from parrot.types.objective import Objective
from parrot.types.sampling import MAX_TOKENS_CAP
from parrot.wire.requests import (
    MAX_LABEL_CHARS,
    MAX_LOGIT_BIAS,
    MAX_PARAMETERS,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    Name,
    Number,
    Reference,
    Text,
    ValueParameter,
    VariableParameter,
    Wire,
)

MAX_CHOICES = 4
"""Answers to one prompt."""
MAX_PROMPTS = 128
"""Prompts of one completion request."""
MAX_LOGPROBS = 5
MAX_TOP_LOGPROBS = 20

StopString = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARS)]
TokenCount = Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS_CAP)]
Penalty = Annotated[Number, Field(ge=-2, le=2)]
TokenNumber = Annotated[StrictStr, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[Number, Field(ge=-100, le=100)]
ServiceTier = Literal["auto", "default", "flex", "priority", "scale", "fast"]
CacheRetention = Literal["in-memory", "in_memory", "24h"]
TokenIds = tuple[Annotated[StrictInt, Field(ge=0, lt=2**31)], ...]


class StreamOptions(Wire):
    """`stream_options`."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False
    """Taken and passed over: nothing is padded."""
    continuous_usage_stats: Literal[False] = False


class ParrotBody(Wire):
    """`parrot`: the request is a call of an application.

    With `session_id` its prompt is a template, as everywhere: `{{name}}` stands for an input, or for the
    session's variable of that name, which another call may have still to produce. Without, the request stands
    alone, and says what it is a part of.
    """

    session_id: Reference | None = None
    """The session that the call becomes a part of; it is durable there."""
    application: Reference | None = None
    """Requests that name the same one are one application's."""
    group: Reference | None = None
    """Requests of an application that name the same one are wanted together."""
    inputs: Annotated[dict[Name, ValueParameter | VariableParameter], Field(max_length=MAX_PARAMETERS)] = (
        Field(default_factory=dict)
    )
    outputs: Annotated[tuple[Name, ...], Field(max_length=MAX_CHOICES)] = ()
    """Names of the variables that the choices become, in their order."""
    objective: Objective | None = None
    """How the answer is waited for."""
    wait: StrictBool = True
    """False: the answer comes at once and has no choices; they can be had from the session's variables."""


class AgentHints(Wire):
    """`nvext.agent_hints`, as NVIDIA Dynamo has them."""

    latency_sensitivity: Annotated[Number, Field(ge=0)] | None = None
    """0: nobody waits for the answer."""
    priority: StrictInt | None = None
    """Higher is more urgent: wanted so many seconds earlier."""
    strict_priority: StrictInt | None = None
    """Above 0 it is as urgent as can be."""
    osl: Annotated[StrictInt, Field(ge=0)] | None = None
    """How many tokens the answer is expected to have."""
    speculative_prefill: StrictBool | None = None
    """Taken and passed over: what a turn computed is there for the next one anyway."""


CacheTime = Literal["30m", "12h"]


class CacheOptions(Wire):
    """`prompt_cache_options`."""

    mode: Literal["implicit", "explicit"] | None = None
    """Taken and passed over: what prompts have in common is found in either mode."""
    ttl: CacheTime | None = None
    """How long what is marked by breakpoints, and what a cache key stands for, is worth keeping."""
    prewarm: Literal[False] = False
    comparison_response_id: Text | None = None


class NvidiaBody(Wire):
    """`nvext`."""

    agent_hints: AgentHints | None = None


class HintedBody(Wire):
    """What all bodies have in common: whose part a request is, and how it is wanted."""

    priority: StrictInt | None = None
    """As vLLM has it, lower is more urgent: wanted so many seconds later, and above 0 nobody waits for it."""
    service_tier: ServiceTier | None = None
    """`flex`: nobody waits for the answer; `priority` and `fast`: it is as urgent as can be."""
    user: Text | None = None
    metadata: Annotated[dict[StrictStr, Text], Field(max_length=16)] | None = None
    store: StrictBool | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    """Prompts with the same one begin alike."""
    prompt_cache_retention: CacheRetention | None = None
    prompt_cache_options: CacheOptions | None = None
    parrot: ParrotBody | None = None
    nvext: NvidiaBody | None = None

    @property
    def member(self) -> ParrotBody | None:
        """Set when the request becomes a call of a session."""
        return self.parrot if self.parrot is not None and self.parrot.session_id is not None else None

    @property
    def hints(self) -> AgentHints:
        """`nvext.agent_hints`."""
        return (self.nvext.agent_hints if self.nvext is not None else None) or AgentHints()

    @property
    def labels(self) -> dict[str, str]:
        """What its sender says that it belongs to, for people who look at what runs."""
        given = {"user": self.user, "prompt_cache_key": self.prompt_cache_key, **(self.metadata or {})}
        return {key: value[:MAX_LABEL_CHARS] for key, value in given.items() if value}


class SamplingBody(HintedBody):
    """What completions and chat completions have in common."""

    model: Text | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: TokenCount | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS_CAP)] = 0
    temperature: Annotated[Number, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[StrictInt, Field(ge=-1, le=1_000_000)] = 0
    """-1 and 0 switch it off."""
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    stop: StopString | Annotated[tuple[StopString, ...], Field(max_length=MAX_STOP_STRINGS)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, lt=2**53)] | None = None
    ignore_eos: StrictBool = False
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=2)] | None = None
    logit_bias: Annotated[dict[TokenNumber, Bias], Field(max_length=MAX_LOGIT_BIAS)] | None = None
    stop_token_ids: TokenIds | None = None
    bad_words: tuple[Text, ...] | None = None
    prompt_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    truncate_prompt_tokens: StrictInt | None = None
    include_stop_str_in_output: StrictBool | None = None
    skip_special_tokens: StrictBool | None = None
    spaces_between_special_tokens: StrictBool | None = None

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def predicted_tokens(self) -> int | None:
        """How long the answer is expected to be, if its sender says so."""
        return self.hints.osl

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings as a list."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk that has the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self) -> None:
        """Refuse what would change the answer and is not served.

        Raises:
            InvalidError: `unsupported`, naming the field; `invalid`.
        """
        refuse("repetition_penalty", self.repetition_penalty, 1, None)
        for name in ("stop_token_ids", "bad_words"):
            if getattr(self, name):
                raise unsupported(name)
        refuse("prompt_logprobs", self.prompt_logprobs, None)
        refuse("truncate_prompt_tokens", self.truncate_prompt_tokens, None)
        refuse("include_stop_str_in_output", self.include_stop_str_in_output, False, None)
        if self.stream_options is not None and not self.stream:
            raise InvalidError("stream_options belong to a stream", param="stream_options")
        if self.parrot is not None:
            check_parrot(self.parrot, num_choices=self.num_choices, streams=bool(self.stream))


class CompletionBody(SamplingBody):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[
            tuple[Annotated[TokenIds, Field(min_length=1)], ...],
            Field(min_length=1, max_length=MAX_PROMPTS),
        ]
    )
    echo: StrictBool | None = None
    logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Annotated[StrictInt, Field(ge=1, le=20)] | None = None
    suffix: Text | None = None
    add_special_tokens: StrictBool | None = None
    """False: the model's beginning-of-sequence token is not put before the prompt."""

    def check(self) -> None:
        """As for every body; and what only completions have."""
        super().check()
        refuse("best_of", self.best_of, self.num_choices, None)
        refuse("suffix", self.suffix, "", None)
        if self.echo and self.logprobs is not None:
            raise InvalidError(
                "likelihoods of a prompt's tokens are not told: echo and logprobs do not go together",
                code="unsupported",
                param="logprobs",
            )

    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """The prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        texts = tuple(prompt for prompt in self.prompt if not isinstance(prompt, int))
        return texts or (tuple(prompt for prompt in self.prompt if isinstance(prompt, int)),)


def check_parrot(parrot: ParrotBody, *, num_choices: int, streams: bool) -> None:
    """Refuse what does not go together.

    Raises:
        InvalidError: `invalid`, `missing_field`.
    """
    if len(parrot.outputs) > num_choices:
        raise InvalidError("there are more names than choices", param="parrot.outputs")
    if streams and not parrot.wait:
        raise InvalidError("a stream is waited for", param="parrot.wait")
    if parrot.session_id is None and (parrot.inputs or parrot.outputs or not parrot.wait):
        raise InvalidError(
            "inputs and outputs are a session's: name it", code="missing_field", param="parrot.session_id"
        )
    if parrot.session_id is not None and (parrot.application or parrot.group):
        raise InvalidError(
            "a call of a session is its application's, and its group follows from the graph",
            param="parrot.application" if parrot.application else "parrot.group",
        )


def refuse(name: str, value: object, *harmless: object) -> None:
    """Refuse a field unless its value changes nothing."""
    if value not in harmless:
        raise unsupported(name)


def unsupported(name: str, why: str = "") -> InvalidError:
    """The error for something that OpenAI or vLLM knows and this service does not do."""
    return InvalidError(
        f"{name} is not supported here{': ' + why if why else '; leave it out'}",
        code="unsupported",
        param=name,
    )
