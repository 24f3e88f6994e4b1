"""One reply: what was said, what the articles say to it, the prompt, and the words as they come.

Knows: the order of these steps, when the reply begins anew, and what Myna says itself where the model should not speak.
Does not know: who may answer (`bot.chat.turns` holds the lease), how articles are found, how text is made, SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace

from bot.chat.live import Live, LiveTurn
from bot.errors import TooLarge, VersionError
from bot.generation.port import Finish, Generator, Piece, Prompt, Sampling
from bot.generation.prompt import PromptBudget, build_prompt, split_at_last_reply
from bot.knowledge.fact_check import CitedText, FactCheck, Invented
from bot.knowledge.grounding import Grounding, Grounds
from bot.learning.release.loaded_versions import ReleasedVersions
from bot.metrics import Metrics
from bot.words import notices
from storage import conversations, inbox
from storage.database import Database
from storage.values import Lease, Message, Origin, Reply, ReplyState, SeenPassage, storable

log = logging.getLogger("myna.conversation")

MAX_MESSAGES_AT_ONCE = 20
HEAD_ONLY_AFTER_ATTEMPTS = 2
MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ReplyPolicy:
    """How replies are made; the same for every channel. `contact` is where people find help beyond the bot.

    `quoting_penalty` is the repetition penalty where the prompt has passages that are to be repeated.
    """

    system_prompt: str
    sampling: Sampling
    context_tokens: int
    lease_seconds: float = 15.0
    max_replies: int = 256
    contact: str = ""
    quoting_penalty: float = 1.0


@dataclass(slots=True)
class Making:
    """A reply under way, and what it will be known by."""

    lease: Lease
    turn: LiveTurn
    model: str
    release_number: int = 0
    passages: tuple[SeenPassage, ...] = ()
    intent: str | None = None
    curated_id: str | None = None
    check: FactCheck | None = None
    prompt: Prompt | None = None
    text: CitedText | None = None
    started: float = 0.0
    first_piece: float | None = None

    def reply(
        self,
        state: ReplyState,
        text: str = "",
        *,
        finish: Finish | None = None,
        error: str | None = None,
        origin: Origin = "model",
    ) -> Reply:
        def since(moment: float | None) -> int | None:
            return None if moment is None else round((moment - self.started) * 1000)

        prompt = self.prompt
        return Reply(
            state=state,
            text=text,
            last_seq=self.turn.last_seq,
            model=self.model,
            version=self.turn.version,
            prompt_sha256=prompt.sha256 if prompt else None,
            prompt_tokens=finish.prompt_tokens if finish else prompt.num_tokens if prompt else None,
            completion_tokens=finish.completion_tokens if finish else None,
            finish_reason=finish.reason if finish else None,
            first_piece_ms=since(self.first_piece),
            total_ms=since(time.monotonic()) if prompt else None,
            error=error,
            origin=origin,
            passages=self.passages,
            cited=frozenset(self.text.cited if self.text else ()),
            intent=self.intent,
            curated_id=self.curated_id,
        )


def last_to_answer(lease: Lease, enq_seq: int) -> tuple[int, bool]:
    """All that is pending is answered as one, up to a limit; after failures only the first, to isolate the culprit.

    Returns the last seq, and whether a message that comes now may still join.
    """
    most = 1 if lease.attempts > HEAD_ONLY_AFTER_ATTEMPTS else MAX_MESSAGES_AT_ONCE
    last_seq = min(enq_seq, lease.done_seq + most)
    return last_seq, last_seq < lease.done_seq + most


class ReplyMaker:
    """Makes replies, each for somebody who holds its lease."""

    def __init__(
        self,
        database: Database,
        generator: Generator,
        released: ReleasedVersions,
        policy: ReplyPolicy,
        live: Live,
        metrics: Metrics,
        grounding: Grounding | None = None,
    ) -> None:
        self._database = database
        self._generator = generator
        self._released = released
        self._policy = policy
        self._live = live
        self._metrics = metrics
        self._grounding = grounding

    async def make(self, lease: Lease, turn: LiveTurn) -> Reply:
        """The reply to all that waits up to `turn.last_seq`, streamed into `turn`. Raises `Fenced` if that was lost."""
        making = Making(lease, turn, self._generator.model, started=time.monotonic())
        while True:
            history, asked = await self._what_was_said(making)
            if not asked and turn.last_seq < lease.enq_seq:  # what was to be answered alone has been edited away
                self._live.restart(turn, turn.last_seq + 1, takes_more=False)
                continue
            if asked and turn.waited_ms is None:
                turn.waited_ms = max(round(time.time() * 1000) - asked[0].created_at, 0)
            if lease.stop_seq >= turn.last_seq or not asked:
                return making.reply("stopped")
            if lease.attempts > MAX_ATTEMPTS:
                apology, error = notices.failed(asked[-1].text), f"{MAX_ATTEMPTS} attempts failed"
                return making.reply("failed", apology, error=error)
            reply = await self._answer(making, history, asked)
            if reply is not None:
                return reply
            _, enq_seq = await self._database.read(inbox.progress, lease.workspace_id, lease.conversation_id)
            last_seq, takes_more = last_to_answer(lease, enq_seq)
            self._live.restart(turn, last_seq, takes_more=takes_more)

    async def _what_was_said(self, making: Making) -> tuple[list[Message], list[Message]]:
        lease = making.lease
        messages, making.release_number = await self._database.read(
            conversations.context, lease.workspace_id, lease.conversation_id, making.turn.last_seq
        )
        return split_at_last_reply(messages)

    async def _answer(self, making: Making, history: list[Message], asked: list[Message]) -> Reply | None:
        """The reply, None if more was said before its first piece."""
        making.prompt, making.text = None, None
        grounds = await self._look_up(making, history, asked)
        if grounds is not None and grounds.verdict == "told":
            return self._words_of_ours(making, grounds.words, "curated" if grounds.curated_id else "intent")
        if grounds is not None and grounds.verdict == "unknown":
            return self._unknown(making, asked)
        try:
            return await self._generate_within(making, history, asked)
        except TooLarge as error:
            text = notices.too_long(asked[-1].text, error.limit or 0)
            return making.reply("refused", text, error=error.message)
        except Invented as error:
            log.info("reply %s began anew, as nobody had told it: %s", making.turn.reply_id, error)
        self._metrics.invented.labels("again").inc()
        # Less to mix up, and no chance in it.
        making.passages = making.passages[:1]
        try:
            self._void(making.turn)
            return await self._generate_within(making, history, asked, temperature=0.0)
        except Invented as error:
            log.info("reply %s gives the article, as nobody had told it: %s", making.turn.reply_id, error)
        self._metrics.invented.labels("replaced").inc()
        self._void(making.turn)
        return self._from_article(making, asked)

    async def _look_up(self, making: Making, history: list[Message], asked: list[Message]) -> Grounds | None:
        making.passages, making.intent, making.curated_id = (), None, None
        if self._grounding is None:
            return None
        grounds = await self._grounding.look_up(making.lease.channel, history, asked)
        if grounds is not None:
            making.passages, making.intent, making.curated_id = grounds.passages, grounds.intent, grounds.curated_id
            self._metrics.looked_up.labels(grounds.verdict).inc()
        return grounds

    def _void(self, turn: LiveTurn) -> None:
        """Take back what has been shown."""
        if turn.pieces:
            self._live.restart(turn, turn.last_seq, takes_more=False)

    def _unknown(self, making: Making, asked: list[Message]) -> Reply:
        related = [(one.number, one.title) for one in making.passages]
        text = notices.unknown(asked[-1].text, self._policy.contact, related)
        return self._words_of_ours(making, text, "unknown")

    def _from_article(self, making: Making, asked: list[Message]) -> Reply:
        best = making.passages[0]
        return self._words_of_ours(making, notices.from_article(asked[-1].text, best.title, best.text), "passage")

    def _words_of_ours(self, making: Making, text: str, origin: Origin) -> Reply:
        making.turn.version, making.prompt, making.text = None, None, None
        reply = making.reply("answered", text, origin=origin)
        return replace(reply, cited=frozenset(one.number for one in making.passages))

    async def _generate_within(
        self, making: Making, history: list[Message], asked: list[Message], temperature: float | None = None
    ) -> Reply | None:
        """Generate from a prompt that fits. Raises `TooLarge`, and `Invented` where articles were to be kept to."""
        making.prompt = await self._prompt(making, history, asked)
        told = [one.content for one in making.prompt.messages]
        making.check = FactCheck(told) if making.passages else None
        sampling = self._policy.sampling
        if making.passages:
            # What keeps small models from repeating themselves keeps them from repeating the articles, too.
            sampling = replace(sampling, repetition_penalty=self._policy.quoting_penalty)
        if temperature is not None:
            sampling = replace(sampling, temperature=temperature)
        return await self._generate_released(making, sampling)

    async def _prompt(self, making: Making, history: list[Message], asked: list[Message]) -> Prompt:
        """The prompt for all that is asked, or for as many of the first messages as fit; the rest comes next turn.

        Passages are left out, the last one first, before a message is.
        """
        window = min(self._policy.context_tokens, self._generator.context_tokens)
        budget = PromptBudget(window, self._policy.sampling.max_tokens)
        system, encode = self._policy.system_prompt, self._generator.encode
        while True:
            try:
                quoted = [one.quotation for one in making.passages]
                return await build_prompt(system, history, asked, budget, encode, quoted)
            except TooLarge:
                if making.passages:
                    making.passages = making.passages[:-1]
                    continue
                asked = asked[: len(asked) // 2]
                if not asked or asked[-1].seq <= making.lease.done_seq:
                    raise
            making.turn.last_seq, making.turn.takes_more = asked[-1].seq, False

    async def _generate_released(self, making: Making, sampling: Sampling) -> Reply | None:
        """As `_generate`, with the version that answers now. One that fails before the first piece is passed over."""
        turn, lease = making.turn, making.lease
        while True:
            turn.version = await self._released.choose(lease.workspace_id, lease.conversation_id, making.release_number)
            try:
                with self._released.held(turn.version):
                    return await self._generate(making, sampling)
            except VersionError as error:
                if turn.version is None or turn.pieces:
                    raise
                await self._released.give_up(turn.version, error)

    async def _generate(self, making: Making, sampling: Sampling) -> Reply | None:
        """Stream the reply into the live turn. None if the person wrote more before its first piece."""
        turn = making.turn
        if turn.interruption is None:
            turn.pump = asyncio.create_task(self._pump(making, sampling), name=f"pump-{turn.reply_id}")
            try:
                return await turn.pump
            except asyncio.CancelledError:
                if turn.interruption is None:
                    raise
        if turn.interruption == "lost":
            raise inbox.Fenced
        if turn.interruption == "stop":
            return making.reply("stopped", turn.text)
        return None

    async def _pump(self, making: Making, sampling: Sampling) -> Reply:
        turn, finish = making.turn, None
        assert making.prompt is not None
        making.text = CitedText(making.passages, making.check) if making.check else None
        stream = self._generator.stream(making.prompt, sampling, turn.version)
        async with contextlib.aclosing(stream):
            async for event in stream:
                if isinstance(event, Piece):
                    making.first_piece = making.first_piece or time.monotonic()
                    self._show(turn, making.text.add(event.text) if making.text else event.text)
                    if making.text and making.text.repeats:
                        break
                elif isinstance(event, Finish):
                    finish = event
        if making.text:
            self._show(turn, making.text.end())
        return making.reply("answered", turn.text, finish=finish)

    def _show(self, turn: LiveTurn, text: str) -> None:
        if text:
            turn.add(storable(text))
