"""One lazy run: calls that are submitted without waiting, and marks that stand for their answers."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

from parrot.integrations.langchain.marks import TextMarks
from parrot.integrations.langchain.pending import pending
from parrot.integrations.run import ChatCall, Given, Run, Service, prompt_of
from parrot.types.objective import Objective

ACTIVE: "ContextVar[LazyRun | None]" = ContextVar("parrot_lazy_run", default=None)
"""The run that calls of the model are submitted to; None: they are made at once."""


class LazyRun(Run):
    """Submits calls and remembers what stands for their answers. Threads may share it."""

    def __init__(self, *, name: str | None, metadata: Mapping[str, str], objective: Objective) -> None:
        super().__init__(name=name, metadata=metadata, objective=objective)
        self.marks = TextMarks()
        self.num_submitted = 0
        """Calls that went to the service without anybody waiting for them."""
        self.num_barriers = 0
        """Times that something waited for a text before the end."""

    def submit(
        self,
        service: Service,
        name: str,
        model: str,
        messages: Sequence[tuple[str, str]],
        sampling: Mapping[str, object],
    ) -> str | None:
        """Submit one call; the mark of its answer. None when its messages have too many pieces."""
        prompt = prompt_of([(role, self.marks.split(content)) for role, content in messages])
        if prompt is None:
            return None
        self.num_submitted += 1
        return self.marks.add(
            self.call(service, ChatCall(name=name, model=model, prompt=prompt, sampling=sampling))
        )

    def resolve(self, value: Any, *, barrier: bool = True) -> Any:
        """`value` with its texts in place of marks; waits for them.

        Raises:
            ParrotError: why one of them never comes.
        """
        answers = self.marks.answers(value)
        if not answers:
            return self.marks.fill(value, str)
        self.num_barriers += barrier
        return self.marks.fill(value, self.texts(answers).__getitem__)

    async def aresolve(self, value: Any, *, barrier: bool = True) -> Any:
        """As `resolve`, without blocking the event loop."""
        answers = self.marks.answers(value)
        if not answers:
            return self.marks.fill(value, str)
        self.num_barriers += barrier
        return self.marks.fill(value, (await self.atexts(answers)).__getitem__)

    def pending(self, value: Any) -> Any:
        """`value` for a function that passes texts on: its marks may be carried, and reading one waits."""
        return pending(value, self.resolve, self.marks.is_in)

    def given(self, value: Any) -> Any:
        """The values of a prompt template, each as a piece of its own."""
        if isinstance(value, str):
            return value if self.marks.is_in(value) or not value else self.marks.add(Given(value))
        if isinstance(value, dict):
            return {
                key: self.given(inner) if isinstance(inner, str) else inner for key, inner in value.items()
            }
        return value

    def stream(self, text: str) -> Iterator[str]:
        """A text piece by piece, as its parts are generated."""
        for piece in self.marks.split(text):
            if isinstance(piece, Future):
                yield from self.pieces(piece)
            else:
                yield piece if isinstance(piece, str) else piece.text

    async def astream(self, text: str) -> AsyncIterator[str]:
        """As `stream`."""
        for piece in self.marks.split(text):
            if isinstance(piece, Future):
                async for more in self.apieces(piece):
                    yield more
            else:
                yield piece if isinstance(piece, str) else piece.text
