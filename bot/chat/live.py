"""Live turns: running replies, fanned out to readers in this process.

The pieces are not durable: after a restart only the stored reply is left. Each reader keeps a position in the shared
list of pieces, so a slow reader delays nobody and needs no queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Literal

from storage.values import Part, ReplyState


@dataclass(frozen=True, slots=True)
class Started:
    """The turn began or restarted; text streamed before is void."""

    reply_id: str


@dataclass(frozen=True, slots=True)
class Text:
    """The next text of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The reply is stored.

    `reason` is the generator's finish reason, None if it did not finish; token counts are 0 where unknown. `sources`
    are the message parts that the text cites as [1], [2].
    """

    state: ReplyState
    reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sources: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing new for a while; a keep-alive is due on the connection."""


MAX_ENDED = 256

LiveEvent = Started | Text | Ended | Waiting
LiveEvents = tuple[LiveEvent, ...]

Interruption = Literal["more", "stop", "lost"]
_FORCE: dict[Interruption | None, int] = {None: 0, "more": 1, "stop": 2, "lost": 3}


@dataclass(eq=False)
class LiveTurn:
    """A running reply to the messages `first_seq` to `last_seq`, with one writer and any number of readers.

    `takes_more` tells if a new message may still join before the first piece.
    """

    reply_id: str
    conversation_id: str
    first_seq: int
    last_seq: int
    takes_more: bool = True
    version: str | None = None
    waited_ms: int | None = None
    pieces: list[str] = field(default_factory=list)
    ended: Ended | Literal["abandoned"] | None = None
    interruption: Interruption | None = None
    restarts: int = 0
    pump: asyncio.Task[object] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def answers(self, seq: int) -> bool:
        return self.first_seq <= seq <= self.last_seq

    def add(self, text: str) -> None:
        self.pieces.append(text)
        self._wake()

    def interrupt(self, why: Interruption) -> None:
        """Cancel the generation because of more messages, a stop, or a lost lease.

        "more" only counts before the first piece; afterwards the reply is finished first.
        """
        if (why == "more" and (self.pieces or not self.takes_more)) or _FORCE[why] <= _FORCE[self.interruption]:
            return
        self.interruption = why
        if self.pump is not None:
            self.pump.cancel()

    def restart(self, last_seq: int, *, takes_more: bool) -> None:
        """Discard the pieces and start over, to answer the messages up to `last_seq`."""
        self.pieces, self.restarts = [], self.restarts + 1
        if self.interruption == "more":
            self.interruption = None
        self.last_seq, self.takes_more = last_seq, takes_more
        self._wake()

    def end(self, how: Ended | Literal["abandoned"]) -> None:
        self.ended = how
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(self, seq: int, patience: float) -> AsyncIterator[LiveEvents]:
        """Yield the turn's events from its start to its end, and `Waiting` after each `patience` seconds of silence.

        Events are batched, so that a late reader catches up in one step. Stops early if the turn no longer answers
        message `seq`.
        """
        position, restarts = 0, -1
        while self.answers(seq):
            # Both are read before the `yield`, as more pieces may arrive while a slow reader is away.
            changed, ended = self._changed, self.ended
            batch: list[LiveEvent] = []
            if restarts != self.restarts:
                position, restarts = 0, self.restarts
                batch.append(Started(self.reply_id))
            if position < len(self.pieces):
                batch.append(Text("".join(self.pieces[position:])))
                position = len(self.pieces)
            if isinstance(ended, Ended):
                batch.append(ended)
            if batch:
                yield tuple(batch)
            if ended is not None:
                return
            if changed is self._changed and not await wait_for(changed, patience):
                yield (Waiting(),)


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Return True once the event is set, False after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Live:
    """The running turns of this process by conversation, and the last `MAX_ENDED` that ended, for late readers."""

    def __init__(self) -> None:
        self._turns: dict[str, LiveTurn] = {}
        self._ended: dict[str, LiveTurn] = {}
        self._arrivals: dict[str, set[asyncio.Event]] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def get(self, conversation_id: str) -> LiveTurn | None:
        return self._turns.get(conversation_id)

    def find(self, conversation_id: str, seq: int) -> LiveTurn | None:
        """Return the turn that answers message `seq`, if it is running or ended recently."""
        turns = (self._turns.get(conversation_id), self._ended.get(conversation_id))
        return next((turn for turn in turns if turn is not None and turn.answers(seq)), None)

    def turns(self) -> list[LiveTurn]:
        return list(self._turns.values())

    def open(self, turn: LiveTurn) -> None:
        """Publish a turn and wake its readers. An older turn of the conversation has lost its lease: interrupt it."""
        if older := self._turns.get(turn.conversation_id):
            older.interrupt("lost")
        self._turns[turn.conversation_id] = turn
        self._announce(turn)

    def restart(self, turn: LiveTurn, last_seq: int, *, takes_more: bool) -> None:
        """Restart a turn for more messages, and wake the readers waiting for them."""
        turn.restart(last_seq, takes_more=takes_more)
        self._announce(turn)

    def close(self, turn: LiveTurn) -> None:
        """Remove a turn, unless a newer turn has replaced it."""
        if self._turns.get(turn.conversation_id) is turn:
            del self._turns[turn.conversation_id]
        if turn.ended is None:
            turn.end("abandoned")
            return
        self._ended.pop(turn.conversation_id, None)
        self._ended[turn.conversation_id] = turn
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    def _announce(self, turn: LiveTurn) -> None:
        for waiter in self._arrivals.get(turn.conversation_id, ()):
            waiter.set()

    @contextlib.contextmanager
    def watch(self, conversation_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever a turn of the conversation opens or restarts."""
        waiter = asyncio.Event()
        waiters = self._arrivals.setdefault(conversation_id, set())
        waiters.add(waiter)
        try:
            yield waiter
        finally:
            waiters.discard(waiter)
            if not waiters and self._arrivals.get(conversation_id) is waiters:
                del self._arrivals[conversation_id]
