"""The path of a message: accept -> claim -> reply -> complete, readable on one screen.

Knows: when a message counts as accepted, who answers it, how a turn can end. Does not know: channels' protocols, how
a reply is made (`bot.chat.reply_maker`), SQL. No transaction is open while the model works.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Iterator

from bot.chat.delivery import Delivery
from bot.chat.following import Following
from bot.chat.live import Ended, LiveTurn, wait_for
from bot.chat.reply_maker import ReplyMaker, ReplyPolicy, last_to_answer
from bot.errors import Conflict, ShuttingDown, Unavailable
from bot.generation.port import Generator
from bot.knowledge.grounding import Grounding
from bot.learning.release.loaded_versions import ReleasedVersions
from bot.metrics import Metrics, log_turn
from storage import consent, inbox
from storage.database import Database, StorageUnavailable
from storage.values import Accepted, Conversation, Incoming, Lease, Part, Reply, new_id

log = logging.getLogger("myna.conversation")

FIRST_RETRY_SECONDS = 0.1
POLL_SECONDS = 0.5
SHOW_GRACE_SECONDS = 3.0
MAX_EPOCH_DIGITS = 18  # what the database's integers hold


Show = Callable[[Lease, LiveTurn], Coroutine[None, None, None]]


class Conversations(Following):
    """Accepts messages and answers them, any number of conversations at once, one reply at a time in each."""

    def __init__(
        self,
        database: Database,
        generator: Generator,
        released: ReleasedVersions,
        policy: ReplyPolicy,
        metrics: Metrics,
        *,
        delivery: Delivery | None = None,
        grounding: Grounding | None = None,
        worker: str | None = None,
    ) -> None:
        super().__init__(database)
        self._generator = generator
        self._policy = policy
        self._delivery = delivery
        self._maker = ReplyMaker(database, generator, released, policy, self._live, metrics, grounding)
        self._metrics = metrics
        self._worker = worker or new_id()
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._orphans_seen: set[str] = set()
        self._shows: dict[str, Show] = {}
        self._shown: set[asyncio.Task[None]] = set()
        self._work_waits = asyncio.Event()
        self._accepting = True

    # 1. Accept: when this returns, the message is stored and will end exactly once.

    async def accept(self, workspace_id: str, incoming: Incoming) -> Accepted:
        """Store a message. Raises `Unavailable` when it can't be, `Conflict` for an edit of what is not there."""
        with self._taking(f"the message of {incoming.channel}"):
            accepted = await self._database.write(inbox.accept, workspace_id, incoming)
            if accepted.duplicate and incoming.may_learn is not None:  # it may have been said since the first delivery
                said = accepted.conversation_id, incoming.may_learn
                await self._database.write(consent.set_conversation, workspace_id, *said)
        self._note_accepted(accepted, incoming.channel, edited=incoming.replaces is not None)
        self._look_for_work_in(incoming.burst_wait_ms / 1000)
        return accepted

    async def regenerate(self, workspace_id: str, known: Conversation, reply_id: str, dedupe_key: str) -> Accepted:
        """Ask for another answer in place of the last reply. Raises `Conflict` if something newer was said."""
        with self._taking("the retry"):
            accepted = await self._database.write(inbox.accept_regenerate, workspace_id, known, reply_id, dedupe_key)
        self._note_accepted(accepted, known.channel, edited=False)
        self._look_for_work_in(0)
        return accepted

    async def revise(
        self, workspace_id: str, known: Conversation, external_id: str, parts: tuple[Part, ...] | None, at_ms: int
    ) -> None:
        """Put other words into a message, or withdraw it with None. A reply to it that is under way begins anew."""
        with self._taking("the edit"):
            is_pending = await self._database.write(inbox.revise, workspace_id, known.id, external_id, parts, at_ms)
        if is_pending:
            if turn := self._live.get(known.id):
                turn.interrupt("lost")
            self._look_for_work_in(0)

    @contextlib.contextmanager
    def _taking(self, what: str) -> Iterator[None]:
        if not self._accepting:
            raise ShuttingDown
        try:
            yield
        except inbox.NoSuchMessage as error:
            raise Conflict(f"{str(error).capitalize()}. Reload the conversation.") from error
        except StorageUnavailable as error:
            log.error("%s could not be stored: %s", what, error)
            raise Unavailable from error

    def _note_accepted(self, accepted: Accepted, channel: str, *, edited: bool) -> None:
        if accepted.duplicate:
            self._metrics.duplicates.labels(channel).inc()
            return
        self._metrics.accepted.labels(channel).inc()
        if turn := self._live.get(accepted.conversation_id):
            turn.interrupt("lost" if edited else "more")

    def _look_for_work_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._work_waits.set)

    # 2. Claim: one worker at a time for each conversation.

    async def work(self) -> None:
        """Claim and answer until cancelled. Run it as one task; it keeps and watches its turns itself."""
        while True:
            self._work_waits.clear()
            free = self._policy.max_replies - len(self._turns)
            if free > 0 and self._accepting and self._generator.ready:
                await self._claim(free)
            await wait_for(self._work_waits, POLL_SECONDS)

    async def _claim(self, most: int) -> None:
        lease_ms = round(self._policy.lease_seconds * 1000)
        try:
            leases = await self._database.write(inbox.claim, None, self._worker, most, lease_ms)
        except StorageUnavailable as error:
            log.error("no work can be claimed, trying again: %s", error)
            return
        for lease in leases:
            turn = asyncio.create_task(self._turn(lease), name=f"turn-{lease.reply_id}")
            self._turns[lease.reply_id] = turn
            turn.add_done_callback(functools.partial(self._turn_ended, lease.reply_id))

    def _turn_ended(self, reply_id: str, task: asyncio.Task[None]) -> None:
        del self._turns[reply_id]
        self._work_waits.set()
        if not task.cancelled() and (error := task.exception()):
            log.critical("a turn broke its own error handling", exc_info=error)

    async def keep_leases(self) -> None:
        """Prolong our leases and learn what happened to them elsewhere, until cancelled. Run it as one task."""
        while True:
            await asyncio.sleep(self._policy.lease_seconds / 3)
            running = self._live.turns()
            try:
                held = await self._database.write(
                    inbox.heartbeat, None, self._worker, round(self._policy.lease_seconds * 1000)
                )
            except StorageUnavailable as error:
                log.error("leases could not be prolonged, trying again: %s", error)
                continue
            leases = {lease.reply_id: lease for lease in held}
            self._compare_leases(running, leases)
            await self._release_orphans(leases)

    def _compare_leases(self, running: list[LiveTurn], held: dict[str, Lease]) -> None:
        for turn in running:
            lease = held.get(turn.reply_id)
            if lease is None:
                turn.interrupt("lost")
            elif lease.stop_seq >= turn.last_seq:
                turn.interrupt("stop")
            elif lease.enq_seq > turn.last_seq:
                turn.interrupt("more")

    async def _release_orphans(self, held: dict[str, Lease]) -> None:
        """A claim whose answer got lost left a lease that nobody works on; seen twice in a row, it goes back."""
        orphans = {reply_id for reply_id in held if reply_id not in self._turns}
        for reply_id in orphans & self._orphans_seen:
            await self._give_back(held[reply_id], 0.0, "orphan", count_attempt=False)
        self._orphans_seen = orphans

    # 3. Reply: the turn holds its lease and no transaction.

    async def _turn(self, lease: Lease) -> None:
        last_seq, takes_more = last_to_answer(lease, lease.enq_seq)
        turn = LiveTurn(lease.reply_id, lease.conversation_id, lease.done_seq + 1, last_seq, takes_more)
        self._live.open(turn)
        self._begin_to_show(lease, turn)
        self._metrics.running.inc()
        started, answer, state = time.monotonic(), None, "lost"
        try:
            answer = await self._maker.make(lease, turn)
            await self._complete(lease, answer)
            state = answer.state
            if not turn.pieces and answer.text:
                turn.add(answer.text)  # a refusal or an apology was not streamed
            tokens = answer.prompt_tokens or 0, answer.completion_tokens or 0
            turn.end(Ended(answer.state, answer.finish_reason, *tokens, sources=answer.sources))
            self._count(lease, answer)
        except inbox.Fenced:
            log.info("turn %s was taken over or set aside", lease.reply_id)
        except asyncio.CancelledError:
            state = "shutdown"
            await asyncio.shield(self._give_back(lease, 0.0, "shutdown", count_attempt=False))
            raise
        except (Unavailable, StorageUnavailable) as error:
            state = "unavailable"
            log.warning("turn %s waits: %s", lease.reply_id, error)
            await self._give_back(lease, getattr(error, "retry_after", 1.0), "unavailable", count_attempt=False)
        except Exception:
            state = "error"
            log.exception("turn %s failed at attempt %d", lease.reply_id, lease.attempts)
            await self._give_back(lease, FIRST_RETRY_SECONDS * 2**lease.attempts, "failed", count_attempt=True)
        finally:
            self._metrics.running.dec()
            self._live.close(turn)
            log_turn(
                reply_id=lease.reply_id,
                channel=lease.channel,
                state=state,
                version=turn.version,
                waited_ms=turn.waited_ms,
                first_ms=answer.first_piece_ms if answer else None,
                total_ms=round((time.monotonic() - started) * 1000),
            )

    def show_with(self, channel: str, show: Show) -> None:
        """Have every reply of a channel shown while it is made. `show` runs beside the turn and holds nothing up."""
        self._shows[channel] = show

    def _begin_to_show(self, lease: Lease, turn: LiveTurn) -> None:
        if (show := self._shows.get(lease.channel)) is None:
            return
        task = asyncio.create_task(show(lease, turn), name=f"show-{lease.reply_id}")
        self._shown.add(task)
        task.add_done_callback(self._show_ended)

    def _show_ended(self, task: asyncio.Task[None]) -> None:
        self._shown.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a reply could not be shown while it was made", exc_info=error)

    # 4. Complete: one transaction, fenced by the lease.

    async def _complete(self, lease: Lease, answer: Reply) -> None:
        """Store the reply, however long the database is away; the fence keeps a late one out."""
        delivery = self._delivery if self._delivery and lease.channel in self._delivery.channels else None
        pushed_to = lease.channel if delivery else None
        delay = 0.1
        while True:
            try:
                await self._database.write(inbox.complete, lease.workspace_id, lease, answer, pushed_to)
                if delivery is not None:
                    delivery.look_for_work()
                return
            except StorageUnavailable as error:
                log.error("reply %s can't be stored yet: %s", lease.reply_id, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)

    async def _give_back(self, lease: Lease, delay: float, reason: str, *, count_attempt: bool) -> None:
        self._metrics.retries.labels(reason).inc()
        with contextlib.suppress(StorageUnavailable):  # then the lease runs out by itself
            await self._database.write(
                inbox.release, lease.workspace_id, lease, round(delay * 1000), count_attempt=count_attempt
            )
        self._look_for_work_in(delay)

    def _count(self, lease: Lease, answer: Reply) -> None:
        self._metrics.replies.labels(lease.channel, answer.state).inc()
        if answer.first_piece_ms is not None:
            self._metrics.first_piece.observe(answer.first_piece_ms / 1000)
        if answer.total_ms is not None:
            self._metrics.reply_seconds.observe(answer.total_ms / 1000)
        self._metrics.tokens.labels("prompt").inc(answer.prompt_tokens or 0)
        self._metrics.tokens.labels("completion").inc(answer.completion_tokens or 0)

    # Stopping.

    async def stop(self, workspace_id: str, conversation_id: str, reply_id: str | None) -> bool:
        """End what is pending as stopped. With a reply's id, only if that reply is the one being made."""
        epoch = None
        if reply_id is not None:
            owner, _, number = reply_id.rpartition("-")
            if owner != conversation_id or not number.isdecimal() or len(number) > MAX_EPOCH_DIGITS:
                return False
            epoch = int(number)
        stopped = await self._database.write(inbox.stop, workspace_id, conversation_id, epoch)
        turn = self._live.get(conversation_id)
        if stopped and turn is not None and reply_id in (None, turn.reply_id):
            turn.interrupt("stop")
        return stopped

    # Shutdown.

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing more, let running turns finish for a while, then hand the rest back unfinished."""
        self._accepting = False
        if self._turns:
            await asyncio.wait(set(self._turns.values()), timeout=grace_seconds)
        for task in (left := set(self._turns.values())):
            task.cancel()
        if left:
            await asyncio.wait(left)
        if self._shown:
            await asyncio.wait(self._shown, timeout=SHOW_GRACE_SECONDS)
        self._closed = True

    @property
    def accepting(self) -> bool:
        return self._accepting
