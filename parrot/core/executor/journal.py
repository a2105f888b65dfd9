"""The one stream of events: first to the store, then to everyone who reads along.

Two ways in:

* `commit` waits for the store and raises when it fails: for what a client is told was accepted.
* `record` does not wait: for results. They are kept, in order, and tried again until the store has them.

Readers see an event after it is committed. Events that are not durable, and all events of ephemeral sessions,
skip the store.

A store that does not answer is waited for, and whoever comes meanwhile is refused. When it says that what it
holds is not known any more, memory may not be what a restart would read: the journal ends, and the service
with it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parrot.errors import StoreError
from parrot.ports.clock import Clock
from parrot.ports.store import Appended, AppendOutcome, IdempotentReply, Store
from parrot.types.events import Event
from parrot.types.ids import SessionId, is_ephemeral

RETRY_DELAY_S = 0.5
SLOW_S = 5.0
"""A store that takes longer over a commit is taken to be away, until it answers."""
FEED_EVENTS = 10_000
"""A reader that is further behind than this is cut off; it can come again and read the log."""

logger = logging.getLogger(__name__)

Reader = Callable[[Appended], None]


@dataclass(slots=True)
class _Entry:
    events: list[Event]
    """Empty for one who only waits for everything before it."""
    idempotent: IdempotentReply | None = None
    done: asyncio.Future[AppendOutcome] | None = None
    """None for results: nobody waits, so they are tried until they are in."""

    def refuse(self, error: Exception) -> None:
        """Tell who waits that nothing was appended."""
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


class Feed:
    """One reader's view of the stream, from the moment it was opened. Close it when done."""

    def __init__(self, feeds: "set[Feed]", session_id: SessionId | None) -> None:
        self._feeds = feeds
        self._session_id = session_id
        self._items: asyncio.Queue[Appended | None] = asyncio.Queue(FEED_EVENTS)
        self._cut = False
        feeds.add(self)

    def put(self, item: Appended | None) -> None:
        """Offer an event; a reader that is too far behind is cut off."""
        if item is None or self._session_id is None or item.event.session_id == self._session_id:
            try:
                self._items.put_nowait(item)
            except asyncio.QueueFull:
                self._cut = True

    async def next(self) -> Appended | None:
        """The next event; None when the stream has ended or the reader was cut off."""
        return None if self._cut else await self._items.get()

    def close(self) -> None:
        """Stop reading."""
        self._feeds.discard(self)


class Journal:
    """Appends events in order, several to a commit, and tells them on."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._readers: list[Reader] = []
        self._entries: deque[_Entry] = deque()
        self._filled = asyncio.Event()
        self._writing: list[_Entry] = []
        self._feeds: set[Feed] = set()
        self._stalled: StoreError | None = None
        self._refused: StoreError | None = None
        """What the store said last, if that was no."""
        self._refused_at_s = 0.0
        self._writing_since_s: float | None = None
        self._ended: StoreError | None = None
        self.num_dropped = 0

    @property
    def failure(self) -> StoreError | None:
        """Why the store does not take events at the moment; None when it does."""
        away = self._away()
        if away is None and self._refused is not None:
            # Not for ever: with nobody sent here any more, nobody would find out that it takes events again.
            recent = self._clock.now_s() - self._refused_at_s < SLOW_S
            return self._refused if recent else None
        return away

    def add_reader(self, read: Reader) -> None:
        """Have every event given to `read`, at once and in order, after it is committed."""
        self._readers.append(read)

    async def commit(
        self, events: Sequence[Event], *, idempotent: IdempotentReply | None = None
    ) -> AppendOutcome:
        """Append events and return once they are durable; raises `StoreError` when they are not."""
        if self._passed_by(events):
            return AppendOutcome(appended=(), dropped=())
        refused = self._ended or self._away()
        if refused is not None:
            raise refused
        done: asyncio.Future[AppendOutcome] = asyncio.get_running_loop().create_future()
        self._push(_Entry(list(events), idempotent, done))
        return await done

    def record(self, events: Sequence[Event]) -> None:
        """Append events without waiting; they are not lost while this process lives."""
        if not events or self._passed_by(events):
            return
        last = self._entries[-1] if self._entries else None
        if last is not None and last.done is None:
            last.events.extend(events)
        else:
            self._push(_Entry(list(events)))

    def tell(self, event: Event) -> None:
        """Tell an event that is not durable to whoever reads along now."""
        self._publish(Appended(seq=0, event=event))

    async def flush(self) -> None:
        """Return when everything recorded so far is durable; raises `StoreError` when it is not and the
        store takes nothing. What was recorded goes on being tried.
        """
        if self._entries or self._writing:
            await self.commit(())

    async def run(self) -> None:
        """Move entries to the store until cancelled; then whoever still waits is refused."""
        try:
            while True:
                await self._filled.wait()
                self._filled.clear()
                self._writing = list(self._entries)
                self._entries.clear()
                await self._write(self._writing)
                self._writing = []
        finally:
            self._ended = StoreError("the service has stopped; whether this was stored is not known")
            for entry in [*self._writing, *self._entries]:
                entry.refuse(self._ended)

    def subscribe(self, session_id: SessionId | None = None) -> Feed:
        """Read events as they are committed, of one session or of all."""
        return Feed(self._feeds, session_id)

    def close_feeds(self) -> None:
        """End every reader."""
        for feed in self._feeds:
            feed.put(None)

    def _passed_by(self, events: Sequence[Event]) -> bool:
        """Tell events of a session that lives in memory only; False when they are for the store. All are of
        one session.
        """
        if not events or not is_ephemeral(events[0].session_id):
            return False
        for event in events:
            self.tell(event)
        return True

    def _away(self) -> StoreError | None:
        """Why nothing is to be tried now."""
        began_s = self._writing_since_s
        if self._stalled is None and began_s is not None and self._clock.now_s() - began_s > SLOW_S:
            return StoreError("the store has not answered for some seconds", data={"retry_after_s": 2})
        return self._stalled

    def _push(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._filled.set()

    async def _write(self, entries: list[_Entry]) -> None:
        """Write entries in order; the store puts those that are under way together into one commit."""
        flushes = [entry for entry in entries if not entry.events]
        entries = [entry for entry in entries if entry.events]
        while entries:
            self._writing_since_s = self._clock.now_s()
            outcomes = await self._append_all(entries)
            self._writing_since_s = None
            self._refused = next((outcome for outcome in outcomes if isinstance(outcome, StoreError)), None)
            self._refused_at_s = self._clock.now_s()
            again: list[_Entry] = []
            for entry, outcome in zip(entries, outcomes, strict=True):
                if isinstance(outcome, AppendOutcome):
                    self._settle(entry, outcome)
                elif isinstance(outcome, StoreError) and outcome.code == "store_unsafe":
                    raise outcome
                elif isinstance(outcome, Exception) and entry.done is not None:
                    entry.refuse(outcome)
                elif isinstance(outcome, StoreError):
                    again.append(entry)
                    self._stall(outcome, flushes)
                else:
                    raise outcome
            entries = again
            if entries:
                await self._clock.sleep(RETRY_DELAY_S)
        if self._stalled is not None:
            logger.warning("the store takes results again")
            self._stalled = None
        for flush in flushes:
            if flush.done is not None and not flush.done.done():
                flush.done.set_result(AppendOutcome(appended=(), dropped=()))

    async def _append_all(self, entries: Sequence[_Entry]) -> Sequence[AppendOutcome | BaseException]:
        """What became of each. One alone, as most are, needs no tasks."""
        if len(entries) > 1:
            return await asyncio.gather(
                *(self._store.append(entry.events, idempotent=entry.idempotent) for entry in entries),
                return_exceptions=True,
            )
        try:
            return [await self._store.append(entries[0].events, idempotent=entries[0].idempotent)]
        except Exception as error:  # noqa: BLE001  judged by the caller, as those of several are
            return [error]

    def _stall(self, error: StoreError, flushes: Sequence[_Entry]) -> None:
        """Results cannot be stored: they are kept and tried again; whoever waits is refused, now and until
        they are in.
        """
        if self._stalled is None:
            logger.warning("the store does not take results, trying again until it does: %s", error)
        self._stalled = error
        for entry in [*flushes, *self._entries]:
            entry.refuse(error)
        self._entries = deque(entry for entry in self._entries if entry.done is None)

    def _settle(self, entry: _Entry, outcome: AppendOutcome) -> None:
        self.num_dropped += len(outcome.dropped)
        if entry.done is not None and not entry.done.done():
            entry.done.set_result(outcome)
        for appended in outcome.appended:
            self._publish(appended)

    def _publish(self, appended: Appended) -> None:
        for read in self._readers:
            read(appended)
        for feed in self._feeds:
            feed.put(appended)
