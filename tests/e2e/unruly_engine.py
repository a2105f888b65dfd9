"""An engine's process that does what its engine's id begins with, in the place of `parrot.engine.worker`.

`dies` ends soon after each start, `lingers` a little later. `loads` never gets ready. `babbles` says
everything more than once, and things that nobody asked for. `invents` gives tokens that no vocabulary has.
`repeats` gives each token twice. `garbles` answers with bytes that are no message.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from parrot.engine import worker
from parrot.engine.messages import Chunk, Chunks, Failed, Filled, FromEngine, Start, Started, ToEngine
from parrot.ports.engine import FillResult, GenerateEnd

LIVES_S = {"dies": 0.2, "lingers": 2.5}
"""For how long they are up."""


class UnrulyServer(worker.EngineServer):
    """One engine that breaks the rules of the socket."""

    _manner = ""

    def _receive(self, message: ToEngine) -> None:
        if isinstance(message, Start):
            self._manner = message.engine_id.partition("-")[0]
            send = self._link.send
            self._link.send = lambda told: [send(each) for each in self._spoilt(told)]  # type: ignore[assignment, arg-type, method-assign]
        super()._receive(message)

    async def _build_and_serve(self) -> None:
        if (await self._start).engine_id.startswith("loads"):
            self._report("loading", 0.5)
            Path("/proc/self/comm").write_text("loads")
            await asyncio.Event().wait()
        await super()._build_and_serve()

    def _spoilt(self, message: FromEngine) -> Iterator[FromEngine]:
        match self._manner, message:
            case "dies" | "lingers", Started():
                yield message
                asyncio.get_running_loop().call_later(LIVES_S[self._manner], os._exit, 3)
            case "babbles", Filled(number=number):
                yield from (message, message, _chunk(number), _failure(number))
            case "babbles", Chunks(chunks=chunks):
                numbers = [chunk.number for chunk in chunks]
                yield from (
                    Filled(number=n, result=FillResult(num_tokens=1, num_prefilled=1)) for n in numbers
                )
                yield from (_chunk(n + 10_000) for n in numbers)
                yield message
                ended = [chunk for chunk in chunks if chunk.end is not None]
                yield Chunks(chunks=tuple(ended))
                yield from (_chunk(chunk.number) for chunk in ended)
                yield from (_failure(chunk.number) for chunk in ended)
            case "invents", Chunks(chunks=chunks):
                yield Chunks(chunks=tuple(_with_tokens(c, (-1, 2**62)) for c in chunks))
            case "repeats", Chunks(chunks=chunks):
                yield Chunks(chunks=tuple(_with_tokens(c, c.token_ids * 2) for c in chunks))
            case "garbles", Chunks():
                assert self._link._transport is not None
                self._link._transport.write(b"\x00\x00\x00\x03abc" * 3)
            case _:
                yield message


def _chunk(number: int) -> Chunks:
    end = GenerateEnd(reason="stop", exact=True, num_tokens=1, num_prefilled=0)
    return Chunks(chunks=(Chunk(number=number, text="foreign", token_ids=(65,), end=end),))


def _failure(number: int) -> Failed:
    return Failed(number=number, code="engine_failed", message="late", param=None, data={})


def _with_tokens(chunk: Chunk, token_ids: tuple[int, ...]) -> Chunk:
    return Chunk(number=chunk.number, text=chunk.text, token_ids=token_ids, end=chunk.end)


if __name__ == "__main__":
    worker.EngineServer = UnrulyServer  # type: ignore[misc]
    sys.exit(worker.main())
