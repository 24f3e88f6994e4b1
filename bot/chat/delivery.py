"""Posting stored replies to channels that must be called, such as Slack: in order, retried, never knowingly twice.

Knows: the outbox and what each answer of a channel means for it. Does not know: how a channel is called; an adapter
gives a `Poster`. A post whose outcome is unknown is looked for at the channel before anything is posted again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Protocol

from bot.chat.live import wait_for
from storage import outbox
from storage.database import Database, StorageUnavailable
from storage.outbox import SendLease
from storage.values import Outgoing, new_id

log = logging.getLogger("myna.delivery")

POLL_SECONDS = 0.5
LOOK_AGAIN_SECONDS, MOST_LOOK_AGAIN_SECONDS = 1.0, 60.0
MOST_AT_ONCE = 32
# Nobody waits longer for an answer, and what was said after it waits behind it.
GIVE_UP_MS = 3600 * 1000


class NotNow(Exception):
    """The channel refused for a while and has posted nothing."""

    def __init__(self, retry_after: float = 1.0) -> None:
        super().__init__(f"again in {retry_after} s")
        self.retry_after = retry_after


class Never(Exception):
    """The channel will not take this post, now or later; nothing was posted."""


class Unknown(Exception):
    """The request left and no answer came: it may have been posted."""


class Poster(Protocol):
    """One channel's way of posting."""

    async def post(self, outgoing: Outgoing) -> str:
        """Post and return the channel's id of it. Raises `NotNow`, `Never` or `Unknown`."""
        ...

    async def find(self, outgoing: Outgoing) -> str | None:
        """The channel's id of an earlier post of the same reply, None if it is surely not there. Raises `Unknown`."""
        ...


@dataclass(frozen=True, slots=True)
class _End:
    """How a try to post ended: for good, or until `delay` seconds have passed."""

    state: str
    provider_id: str | None = None
    error: str | None = None
    delay: float = 0.0


class Delivery:
    """Sends what is in the outbox, any number of conversations at once, one post at a time in each."""

    def __init__(self, database: Database, *, lease_seconds: float = 15.0, worker: str | None = None) -> None:
        self._database = database
        self._posters: dict[str, Poster] = {}
        self._worker = worker or new_id()
        self._lease_ms = round(lease_seconds * 1000)
        # A post must be over before another process may think that its sender is dead.
        self._post_seconds = lease_seconds * 2 / 3
        self._sending: set[asyncio.Task[None]] = set()
        self._draining = False
        self._work_waits = asyncio.Event()

    def register(self, channel: str, poster: Poster) -> None:
        """Post the replies of a channel by `poster` from now on."""
        self._posters[channel] = poster

    @property
    def channels(self) -> frozenset[str]:
        """Names of the channels that have a poster; their replies go through the outbox."""
        return frozenset(self._posters)

    def look_for_work(self) -> None:
        """Something was put into the outbox."""
        self._work_waits.set()

    async def work(self) -> None:
        """Send until cancelled. Run it as one task."""
        while not self._draining:
            self._work_waits.clear()
            with contextlib.suppress(StorageUnavailable):
                for lease in await self._database.write(outbox.claim, None, self._worker, MOST_AT_ONCE, self._lease_ms):
                    task = asyncio.create_task(self._send_all(lease), name=f"send-{lease.conversation_id}")
                    self._sending.add(task)
                    task.add_done_callback(self._sending.discard)
            await wait_for(self._work_waits, POLL_SECONDS)

    async def drain(self) -> None:
        """Begin no more posts and wait for those that have begun: between posting and recording nothing is cut off."""
        self._draining = True
        if self._sending:
            await asyncio.wait(set(self._sending), timeout=self._post_seconds)

    async def _send_all(self, lease: SendLease) -> None:
        try:
            outgoing = await self._database.write(outbox.intend, lease.workspace_id, lease, self._lease_ms)
            if outgoing is None:
                await self._database.write(outbox.release, lease.workspace_id, lease)
            while outgoing is not None:
                end = await self._send(outgoing)
                if end.delay or self._draining:
                    await self._record(outgoing, end)
                    await self._database.write(outbox.release, lease.workspace_id, lease, round(end.delay * 1000))
                    return
                outgoing = await self._database.write(
                    outbox.record_and_go_on,
                    lease.workspace_id,
                    outgoing,
                    end.state,
                    lease,
                    self._lease_ms,
                    provider_id=end.provider_id,
                    error=end.error,
                )
        except StorageUnavailable as error:
            # The lease runs out; what was being sent is then looked for before it is posted again.
            log.error("delivery to %s pauses: %s", lease.conversation_id, error)

    async def _send(self, outgoing: Outgoing) -> _End:
        """Post once; says how that ended."""
        try:
            return _End("sent", provider_id=await self._post_once(outgoing))
        except NotNow as error:
            # A channel that is busy is no failure, however often it says so.
            if outgoing.age_ms < GIVE_UP_MS:
                return _End("pending", error=str(error), delay=max(error.retry_after, 0.001))
            return _End("failed", error=f"refused {outgoing.attempts} times, the last: {error}")
        except Never as error:
            return _End("failed", error=str(error))
        except Exception as error:  # Unknown, a time-out, or a fault of the adapter: it may have been posted
            is_expected, problem = isinstance(error, Unknown | TimeoutError), str(error) or "no answer in time"
            log.log(
                logging.WARNING if is_expected else logging.ERROR,
                "it is not known whether %s was posted: %s",
                outgoing.id,
                problem,
                exc_info=not is_expected,
            )
            if outgoing.age_ms >= GIVE_UP_MS:
                return _End("ambiguous", error=problem)
            # The next try looks for it before it posts anything.
            delay = min(LOOK_AGAIN_SECONDS * 2 ** (outgoing.attempts - 1), MOST_LOOK_AGAIN_SECONDS)
            return _End("sending", error=problem, delay=delay)

    async def _post_once(self, outgoing: Outgoing) -> str:
        poster = self._posters.get(outgoing.channel)
        if poster is None:
            raise Never(f"no adapter posts to {outgoing.channel}")
        async with asyncio.timeout(self._post_seconds):
            if outgoing.state == "sending" and (found := await poster.find(outgoing)):
                return found
            return await poster.post(outgoing)

    async def _record(self, outgoing: Outgoing, end: _End) -> None:
        await self._database.write(
            outbox.record, outgoing.workspace_id, outgoing, end.state, provider_id=end.provider_id, error=end.error
        )
