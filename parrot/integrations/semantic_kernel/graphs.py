"""`lazy`: the prompt functions of a kernel as application graphs, in an unchanged program."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from semantic_kernel import Kernel
from semantic_kernel.contents import (
    AuthorRole,
    ChatMessageContent,
    StreamingChatMessageContent,
    StreamingTextContent,
    TextContent,
)
from semantic_kernel.exceptions import FunctionExecutionException
from semantic_kernel.filters import FilterTypes, FunctionInvocationContext
from semantic_kernel.functions import FunctionResult

from parrot.errors import ParrotError, UsageError
from parrot.integrations.naming import label
from parrot.integrations.run import Answer, Run
from parrot.integrations.semantic_kernel.failures import framework_error
from parrot.integrations.semantic_kernel.lowering import Lowering
from parrot.integrations.semantic_kernel.prompts import CompiledPrompt, compile_prompt
from parrot.sdk.graph import Graph
from parrot.types.objective import Objective

Next = Callable[[FunctionInvocationContext], Awaitable[None]]


class KernelGraphs:
    """A filter of a kernel: a prompt function whose template calls other prompt functions is submitted as one
    application graph, in one request. Every other function runs as ever, and so does every function while
    the kernel has other filters of functions or prompts: they are to see each call.
    """

    def __init__(self, kernel: Kernel, *, objective: Objective = "latency", keep_graph: bool = False) -> None:
        self._kernel = kernel
        self._objective = objective
        self._keep_graph = keep_graph
        self.last_graphs: list[Graph] = []
        """With `keep_graph`, the application graph of the function that ended last; of one that is not
        streamed."""
        kernel.add_filter(FilterTypes.FUNCTION_INVOCATION, self._filter)

    def stop(self) -> None:
        """Run every function as without `lazy` again."""
        own = [number for number, made in self._kernel.function_invocation_filters if made == self._filter]
        for number in own:
            self._kernel.remove_filter(FilterTypes.FUNCTION_INVOCATION, filter_id=number)

    async def _filter(self, context: FunctionInvocationContext, next: Next) -> None:  # noqa: A002 - its name
        prompt = self._graph_of(context)
        if prompt is None:
            await next(context)
            return
        run = Run(
            name=label(prompt.name), metadata={"framework": "semantic-kernel"}, objective=self._objective
        )
        lowering = Lowering(context.kernel)
        answer = await lowering.lower(prompt, context.arguments)
        run.call_together(prompt.target.service, lowering.calls)
        if context.is_streaming:
            pieces = _streamed(run, answer, prompt)
            context.result = FunctionResult(function=context.function.metadata, value=pieces)
            return
        try:
            text = (await run.atexts([answer]))[answer]
            if self._keep_graph:
                self.last_graphs = await run.agraphs()
        except ParrotError as error:
            raise _failed(prompt, error) from error
        finally:
            run.close()
        context.result = _result(context, prompt, text)

    def _graph_of(self, context: FunctionInvocationContext) -> CompiledPrompt | None:
        """The function as a graph; None when there is nothing to gain, or it cannot be."""
        kernel = context.kernel
        if kernel.prompt_rendering_filters or len(kernel.function_invocation_filters) > 1:
            return None
        try:
            prompt = compile_prompt(kernel, context.function, context.arguments)
        except UsageError:
            return None
        return prompt if prompt.nested else None


def lazy(kernel: Kernel, *, objective: Objective = "latency", keep_graph: bool = False) -> KernelGraphs:
    """From now on, submit prompt functions that call each other in templates as application graphs.

    Args:
        kernel: The kernel; it is used as before.
        objective: How results are waited for: `latency`, or `throughput` when only the completion of all of
            them counts.
        keep_graph: Keep the application graph of each run in `last_graphs`, to look at.
    """
    return KernelGraphs(kernel, objective=objective, keep_graph=keep_graph)


def _result(context: FunctionInvocationContext, prompt: CompiledPrompt, text: str) -> FunctionResult:
    message = ChatMessageContent(
        role=AuthorRole.ASSISTANT, items=[TextContent(text=text)], ai_model_id=prompt.target.model
    )
    metadata = {"arguments": context.arguments, "metadata": [message.metadata]}
    return FunctionResult(function=context.function.metadata, value=[message], metadata=metadata)


async def _streamed(run: Run, answer: Answer, prompt: CompiledPrompt) -> AsyncGenerator[list[Any], None]:
    try:
        async for piece in run.apieces(answer):
            yield [
                StreamingChatMessageContent(
                    role=AuthorRole.ASSISTANT,
                    choice_index=0,
                    items=[StreamingTextContent(choice_index=0, text=piece)],
                    ai_model_id=prompt.target.model,
                )
            ]
    except ParrotError as error:
        raise _failed(prompt, error) from error
    finally:
        run.close()


def _failed(prompt: CompiledPrompt, error: ParrotError) -> FunctionExecutionException:
    found = framework_error(error)
    made = FunctionExecutionException(
        f"Error occurred while invoking function {prompt.function.name}: {found}"
    )
    made.__cause__ = found
    return made
