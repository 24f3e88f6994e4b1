"""Outbox delivery: post stored replies to push channels such as Slack.

Posts of a conversation are sent in order, with retries and backoff. If the outcome of a post is unknown, the channel is
searched for it before anything is posted again. An adapter provides the `Poster` of its channel.
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
# After an hour nobody waits for the reply any more, and all later replies of the conversation queue behind it.
GIVE_UP_MS = 3600 * 1000


class NotNow(Exception):
    """The channel posted nothing and wants a retry after `retry_after` seconds."""

    def __init__(self, retry_after: float = 1.0) -> None:
        super().__init__(f"again in {retry_after} s")
        self.retry_after = retry_after


class Never(Exception):
    """The channel posted nothing and rejects this post for good."""


class Unknown(Exception):
    """The request was sent and no response came; the channel may have posted."""


class Poster(Protocol):
    """API of a channel, implemented by its adapter."""

    async def post(self, outgoing: Outgoing) -> str:
        """Post a reply and return the channel's id for it. Raises `NotNow`, `Never` or `Unknown`."""
        ...

    async def find(self, outgoing: Outgoing) -> str | None:
        """Return the channel's id of an earlier post of this reply, None if there surely is none. Raises `Unknown`."""
        ...


@dataclass(frozen=True, slots=True)
class _PostOutcome:
    """Result of an attempt to post: final, or to be retried after `delay` seconds."""

    state: str
    provider_id: str | None = None
    error: str | None = None
    delay: float = 0.0


class Delivery:
    """Sends the outbox: conversations side by side, one post at a time in each."""

    def __init__(self, database: Database, *, lease_seconds: float = 15.0, worker: str | None = None) -> None:
        self._database = database
        self._posters: dict[str, Poster] = {}
        self._worker = worker or new_id()
        self._lease_ms = round(lease_seconds * 1000)
        # A post must end before its lease does, or another process would take the sender for dead.
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
        """Wake the worker: the outbox has a new reply."""
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
        """Begin no more posts, and wait until those under way are recorded."""
        self._draining = True
        if self._sending:
            await asyncio.wait(set(self._sending), timeout=self._post_seconds)

    async def _send_all(self, lease: SendLease) -> None:
        try:
            outgoing = await self._database.write(outbox.intend, lease.workspace_id, lease, self._lease_ms)
            if outgoing is None:
                await self._database.write(outbox.release, lease.workspace_id, lease)
            while outgoing is not None:
                outcome = await self._send(outgoing)
                if outcome.delay or self._draining:
                    await self._record(outgoing, outcome)
                    await self._database.write(outbox.release, lease.workspace_id, lease, round(outcome.delay * 1000))
                    return
                outgoing = await self._database.write(
                    outbox.record_and_go_on,
                    lease.workspace_id,
                    outgoing,
                    outcome.state,
                    lease,
                    self._lease_ms,
                    provider_id=outcome.provider_id,
                    error=outcome.error,
                )
        except StorageUnavailable as error:
            # The lease runs out; the next holder looks for this post before posting again.
            log.error("delivery to %s pauses: %s", lease.conversation_id, error)

    async def _send(self, outgoing: Outgoing) -> _PostOutcome:
        """Make one attempt to post and return its outcome."""
        try:
            return _PostOutcome("sent", provider_id=await self._post_once(outgoing))
        except NotNow as error:
            # A rate limit is no failure, however often it comes; only the age of the reply ends the retries.
            if outgoing.age_ms < GIVE_UP_MS:
                return _PostOutcome("pending", error=str(error), delay=max(error.retry_after, 0.001))
            return _PostOutcome("failed", error=f"refused {outgoing.attempts} times, the last: {error}")
        except Never as error:
            return _PostOutcome("failed", error=str(error))
        except Exception as error:  # Unknown, a timeout, or a fault of the adapter: the channel may have posted
            is_expected, problem = isinstance(error, Unknown | TimeoutError), str(error) or "no answer in time"
            log.log(
                logging.WARNING if is_expected else logging.ERROR,
                "it is not known whether %s was posted: %s",
                outgoing.id,
                problem,
                exc_info=not is_expected,
            )
            if outgoing.age_ms >= GIVE_UP_MS:
                return _PostOutcome("ambiguous", error=problem)
            # The next attempt looks for this post before posting.
            delay = min(LOOK_AGAIN_SECONDS * 2 ** (outgoing.attempts - 1), MOST_LOOK_AGAIN_SECONDS)
            return _PostOutcome("sending", error=problem, delay=delay)

    async def _post_once(self, outgoing: Outgoing) -> str:
        poster = self._posters.get(outgoing.channel)
        if poster is None:
            raise Never(f"no adapter posts to {outgoing.channel}")
        async with asyncio.timeout(self._post_seconds):
            if outgoing.state == "sending" and (found := await poster.find(outgoing)):
                return found
            return await poster.post(outgoing)

    async def _record(self, outgoing: Outgoing, outcome: _PostOutcome) -> None:
        await self._database.write(
            outbox.record,
            outgoing.workspace_id,
            outgoing,
            outcome.state,
            provider_id=outcome.provider_id,
            error=outcome.error,
        )
