"""`prompt` of a response: a call of a registered function.

What the service knows of the function before anybody calls it, its constant beginning above all, holds for
such a request as for a call of an application: its prompt has structure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parrot.core.executor.requests import Requests
from parrot.core.service import Service
from parrot.errors import InvalidError, NotFoundError
from parrot.server.openai.bodies import unsupported
from parrot.server.openai.chat_bodies import ChatBody, ChatMessage
from parrot.server.openai.hints import objective_of, part_of
from parrot.server.openai.lowering import Contents, Wanted, lowered_messages
from parrot.server.openai.response_bodies import PromptReference, ResponseBody
from parrot.types.ids import TenantId
from parrot.types.sampling import MAX_TOKENS_CAP
from parrot.wire.functions import FunctionView
from parrot.wire.requests import (
    CallSpec,
    MessageSpec,
    OutputParameter,
    OutputSpec,
    Parameter,
    SamplingSpec,
    ToldSampling,
    ValueParameter,
)

_SAMPLING = {
    "max_output_tokens": "max_tokens",
    "min_tokens": "min_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "ignore_eos": "ignore_eos",
}
"""Fields of a body that take the place of what is registered, when they are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Function:
    """A registered function with one output."""

    view: FunctionView
    output: str
    """Its placeholder."""

    def inputs(self, prompt: PromptReference) -> dict[str, Parameter]:
        """What its inputs stand for.

        Raises:
            InvalidError: one is missing, or is none of its inputs.
        """
        values = prompt.values()
        for name in values.keys() - self.view.inputs.keys():
            raise InvalidError(
                f"the function {self.view.name!r} has no input {name!r}", param=f"prompt.variables.{name}"
            )
        parameters: dict[str, Parameter] = {}
        for name, known in self.view.inputs.items():
            value = values.get(name, known.default)
            if value is None:
                raise InvalidError(
                    f"the function {self.view.name!r} needs the input {name!r}",
                    code="missing_field",
                    param=f"prompt.variables.{name}",
                )
            parameters[name] = ValueParameter.model_construct(value=value)
        return parameters


def registered_call(
    body: ResponseBody,
    prompt: PromptReference,
    chat: ChatBody,
    earlier: Sequence[ChatMessage],
    *,
    service: Service,
    tenant: TenantId,
) -> Wanted:
    """The call that a body with a `prompt` asks for; `chat` is the same body as a chat. The conversation, if
    there is one, stands between the function's messages and its answer.

    Raises:
        NotFoundError: `function_not_found`.
        InvalidError: the function does not answer once, or variables are not its inputs.
    """
    function = _find(prompt, service, tenant)
    view, conversation = function.view, (*earlier, *body.messages())
    parameters = function.inputs(prompt)
    said = _said(body, chat)
    if not conversation:
        parameters[function.output] = OutputParameter.model_construct(output=said)
        call = CallSpec.model_construct(
            function=f"{view.name}@{view.version}", model=body.model, parameters=parameters
        )
    else:
        written = Contents.of(conversation, templates=False)
        messages = _around(view, tuple(lowered_messages(conversation, None, written)))
        parameters |= written.marked
        parameters[function.output] = OutputParameter.model_construct(output=_output(function, said))
        call = CallSpec.model_construct(
            model=body.model or view.model, messages=messages, parameters=parameters
        )
    return Wanted(
        calls=(call,),
        num_choices=1,
        prompts=(),
        objective=objective_of(body),
        parrot=None,
        labels=body.labels | {"function": f"{view.name}@{view.version}"},
        part_of=part_of(body),
        opaque=False,
    )


def model_of(body: ResponseBody, wanted: Wanted, service: Service, tenant: TenantId) -> str:
    """The name of the model that will answer. Raises as `Requests.model`."""
    requests: Requests = service.requests
    (call, *_) = wanted.calls
    named = call.model
    if named is None and body.prompt is not None:
        named = service.functions.read(tenant, body.prompt.ref).model
    return requests.model(named).name


def _find(prompt: PromptReference, service: Service, tenant: TenantId) -> _Function:
    try:
        view = service.functions.read(tenant, prompt.ref)
    except NotFoundError as error:
        error.param = "prompt.id"
        raise
    if len(view.outputs) != 1:
        raise unsupported(
            "prompt.id", f"the function {view.name!r} has {len(view.outputs)} outputs, a response is one"
        )
    return _Function(view=view, output=next(iter(view.outputs)))


def _around(view: FunctionView, conversation: Sequence[MessageSpec]) -> tuple[MessageSpec, ...]:
    if view.messages is None:
        raise unsupported("input", f"the function {view.name!r} is a template, not messages")
    *before, answer = view.messages
    return (*before, *conversation, answer)


def _said(body: ResponseBody, chat: ChatBody) -> OutputSpec:
    """What the body says of its output; nothing else is set."""
    fields: dict[str, Any] = {}
    given: dict[str, Any] = {
        ours: getattr(body, name)
        for name, ours in _SAMPLING.items()
        if name in body.model_fields_set and getattr(body, name) is not None
    }
    if body.num_logprobs is not None:
        given["logprobs"] = body.num_logprobs
    if body.hints.osl is not None:
        given["expected_tokens"] = min(body.hints.osl, MAX_TOKENS_CAP)
    if given:
        fields["sampling"] = ToldSampling.model_construct(**given)
    schema = None if chat.response_format is None else chat.response_format.schema_of_output()
    if schema is not None:
        fields["schema_"] = schema
    return OutputSpec.model_construct(_fields_set=set(fields), **fields)


def _output(function: _Function, said: OutputSpec) -> OutputSpec:
    """The registered output, with what was said in place of it."""
    registered = OutputSpec.model_validate(function.view.outputs[function.output])
    update: dict[str, object] = {}
    if "schema_" in said.model_fields_set:
        update["schema_"] = said.schema_
    if "sampling" in said.model_fields_set:
        sampling: SamplingSpec = said.sampling
        told = {name: getattr(sampling, name) for name in sampling.model_fields_set}
        update["sampling"] = ToldSampling.model_construct(**registered.sampling.model_dump() | told)
    return registered.model_copy(update=update)
