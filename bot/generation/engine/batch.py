"""All replies in the making on one model, one step after the other: schedule, run, choose the next tokens.

Knows: who joins and leaves between steps, what earlier turns left in the cache, when a reply is over. Does not know:
torch, threads, loops; it delivers to whatever asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bot.errors import GeneratorFailed, MynaError
from bot.generation.engine.drafts import MAX_DRAFT, PromptLookup
from bot.generation.engine.prefix_store import Kept, PrefixStore, common_length
from bot.generation.engine.sampler import Choice, Sampler, choose
from bot.generation.engine.scheduler import Limits, Move, Scheduler
from bot.generation.engine.sequence import Chunk
from bot.generation.engine.sequence import Sequence as Tokens
from bot.generation.engine.text_stream import TextStream
from bot.generation.port import Finish, FinishReason, Piece, Sampling, TokenLogprob

if TYPE_CHECKING:
    import torch

    from bot.generation.engine.grammar import Grammar
    from bot.generation.engine.lora import LoraVersion
    from bot.generation.engine.runner import Runner

log = logging.getLogger(__name__)

# Of the cache, for conversations that nobody waits for at the moment.
KEPT_SHARE = 0.25
# Fewer tokens are computed as quickly as they are copied.
MIN_SHARED_TOKENS = 16
# It pays to wait for another's prompt if so many of its tokens are ours, too.
WORTH_WAITING_TOKENS = 64


class Request(Protocol):
    """A reply that somebody wants."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    version: LoraVersion | None
    priority: int
    grammar: Grammar | None
    aborted: bool

    def deliver(self, event: Piece | Finish | MynaError) -> None: ...

    def end(self) -> None:
        """Called once, when nothing more will be done for it."""


class Batch:
    """The replies of one model. All calls come from one thread."""

    def __init__(self, runner: Runner, limits: Limits | None = None) -> None:
        tokens = runner.cache_bytes // runner.decoder.bytes_per_token
        kept = int(KEPT_SHARE * tokens)
        self._runner = runner
        self._scheduler = Scheduler(limits or Limits(cache_tokens=tokens - kept), runner.decoder.cache_size)
        self._replies: dict[Tokens, _Reply] = {}
        self._kept: PrefixStore[Any] = PrefixStore(kept)

    def __len__(self) -> int:
        return len(self._replies)

    def add(self, request: Request) -> None:
        """Let a reply wait for its first step."""
        prompt_ids = request.prompt_ids
        if request.aborted:  # looked at second: an abort sets the flag first and then empties the prompt
            request.end()
            return
        sequence = Tokens(list(prompt_ids), request.version, request.sampling.seed is not None, request.priority)
        self._replies[sequence] = _Reply(request, sequence, self._runner)
        self._scheduler.add(sequence)

    def forget(self, version: LoraVersion) -> None:
        """Drop what is kept of a version that is retired."""
        self._kept.forget(version)

    def step(self) -> None:
        """Compute something for the running replies. If memory runs out, these fail, and those that wait go on."""
        try:
            with self._runner.inference_mode():
                self._step()
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            log.exception("There was not enough memory for %d replies at once", len(self._scheduler.running))
            self._give_up_running()

    def _step(self) -> None:
        for sequence, reply in list(self._replies.items()):
            if reply.request.aborted:
                self._end(sequence)
        while (last := self._scheduler.overflowing()) is not None:
            self._move(self._scheduler.preempt(last))
        copies = self._admit()
        self._draft()
        self._runner.decoder.reserve(len(self._scheduler.running), self._scheduler.longest)
        while copies:
            copies.pop(0)()  # and let go of what was kept
        for chunks in _passes(self._scheduler.schedule()):
            self._choose(chunks, self._runner.step(chunks, self._scheduler.running))

    def _give_up_running(self) -> None:
        for sequence in list(self._scheduler.running):
            self._replies[sequence].request.deliver(GeneratorFailed("The model ran out of memory. Try again."))
            self._remove(sequence, keeps_row=False)
        self._runner.decoder.reset()
        self._kept.clear()

    def _draft(self) -> None:
        """Propose what may follow, as long as the step becomes little longer by it."""
        running = self._scheduler.running
        spare = self._runner.decoder.spare_tokens - sum(one.num_missing for one in running)
        if not self._scheduler.has_room_for_drafts(MAX_DRAFT):
            spare = 0
        for sequence in running:
            drafts = spare > 0 and sequence.num_missing == 1 and not sequence.alone
            sequence.draft = self._replies[sequence].draft(spare) if drafts else ()
            spare -= len(sequence.draft)

    def _choose(self, chunks: Sequence[Chunk], scores: torch.Tensor) -> None:
        """Take the tokens that the scores give: one of each reply, and further ones as long as a draft was right."""
        pending: list[tuple[_Reply, tuple[int, ...], int]] = []
        over: list[Tokens] = []
        places = 0
        for chunk in chunks:
            if chunk.completes:
                pending.append((self._replies[chunk.sequence], chunk.draft, places))
            chunk.sequence.num_computed += chunk.count
            places += chunk.num_scores
        while pending:
            chosen = choose([reply.sampler for reply, *_ in pending], scores[[place for *_, place in pending]])
            right = []
            for (reply, draft, place), choice in zip(pending, chosen, strict=True):
                if self._take(reply, choice):
                    over.append(reply.sequence)
                elif reply.follow(draft):
                    right.append((reply, draft[1:], place + 1))
            pending = right
        for sequence in over:  # only now, as rows move when one ends
            self._end(sequence)

    def _take(self, reply: _Reply, choice: Choice | GeneratorFailed) -> bool:
        """Whether that was the last of this reply."""
        if isinstance(choice, Choice):
            return reply.take(choice)
        assert reply.sequence.row is not None
        self._runner.decoder.clear(reply.sequence.row)
        reply.sequence.num_computed = 0
        reply.request.deliver(choice)
        return True

    def _admit(self) -> list[Callable[[], None]]:
        """Let in who waits. What it gives puts shared prefixes into their rows, once there is memory for these."""
        copies: list[Callable[[], None]] = []
        for sequence in list(self._scheduler.waiting):
            if not self._scheduler.has_room_for(sequence):
                break  # those behind it must not overtake
            source, shared = self._find_prefix(sequence)
            if self._is_being_computed(sequence, shared):
                continue
            self._scheduler.admit(sequence)
            if source is not None:
                copies.append(self._share_prefix(source, sequence, shared))
        return copies

    def _find_prefix(self, sequence: Tokens) -> tuple[Kept[Any] | Tokens | None, int]:
        """What begins with the most of the same tokens, kept or running; at least one token is left to compute."""
        if not self._may_share(sequence):
            return None, 0
        wanted = sequence.token_ids[:-1]
        source: Kept[Any] | Tokens | None
        source, shared = self._kept.find(sequence.version, wanted)
        for other in self._same_version(sequence):
            common = min(common_length(other.token_ids, wanted), other.num_computed)
            if common > shared:
                source, shared = other, common
        return (source, shared) if shared >= MIN_SHARED_TOKENS else (None, 0)

    def _share_prefix(self, source: Kept[Any] | Tokens, sequence: Tokens, count: int) -> Callable[[], None]:
        """Count `count` tokens as computed. What it gives copies them; the next may share them if it copies later."""
        decoder, target = self._runner.decoder, sequence.row
        assert target is not None
        sequence.num_computed = count
        if isinstance(source, Kept):
            if count == len(source.token_ids):
                self._kept.take(source)
            return lambda: decoder.copy_in(target, source.content, count)
        row = source.row
        assert row is not None
        return lambda: decoder.copy_in(target, decoder.copy_out(row, count), count)

    def _is_being_computed(self, sequence: Tokens, shared: int) -> bool:
        """Whether another's prompt, on its way into the cache, will save much more than what is known now."""
        if not self._may_share(sequence):
            return False
        return any(
            common_length(other.token_ids, sequence.token_ids[:-1]) - max(shared, other.num_computed)
            >= WORTH_WAITING_TOKENS
            for other in self._same_version(sequence)
            if other.priority <= sequence.priority
        )

    def _may_share(self, sequence: Tokens) -> bool:
        return self._runner.decoder.can_cut and not sequence.alone

    def _same_version(self, sequence: Tokens) -> list[Tokens]:
        return [other for other in self._scheduler.running if other.version is sequence.version]

    def _end(self, sequence: Tokens) -> None:
        """Let a reply go, and keep what was computed for whoever goes on from there."""
        retired = sequence.version is not None and sequence.version.retired
        decoder, count = self._runner.decoder, sequence.num_computed
        fits = MIN_SHARED_TOKENS <= count <= self._kept.max_tokens
        if sequence.row is not None and fits and not retired and decoder.can_cut:
            content = decoder.copy_out(sequence.row, count)
            self._kept.keep(sequence.version, sequence.token_ids[:count], content)
        self._remove(sequence)

    def _remove(self, sequence: Tokens, *, keeps_row: bool = True) -> None:
        """`keeps_row` is false if the rows' content is of no use any more."""
        self._replies.pop(sequence).request.end()
        move = self._scheduler.remove(sequence)
        if keeps_row:
            self._move(move)

    def _move(self, move: Move | None) -> None:
        if move is not None:
            tokens = self._scheduler.running[move.target].num_computed
            self._runner.decoder.move(move.source, move.target, tokens)
        self._runner.decoder.release(len(self._scheduler.running))


class _Reply:
    """One reply from its tokens to its pieces."""

    def __init__(self, request: Request, sequence: Tokens, runner: Runner) -> None:
        self.request = request
        self.sequence = sequence
        self.sampler = Sampler(request.sampling, sequence.token_ids, request.grammar)
        self._runner = runner
        self.lookup = PromptLookup(sequence.token_ids)
        self._text = TextStream(runner.decode, request.sampling.stop, runner.silent_ids)
        self._logprobs: list[TokenLogprob] = []

    @property
    def _num_tokens(self) -> int:
        return len(self.sequence.token_ids) - self.sequence.num_prompt

    def draft(self, most: int) -> tuple[int, ...]:
        """What may follow the next token, within what is left of the reply."""
        return self.lookup.propose(min(most, MAX_DRAFT, self.request.max_tokens - self._num_tokens - 1))

    def follow(self, draft: tuple[int, ...]) -> bool:
        """Whether the draft goes on with the token that was chosen, which counts as computed then."""
        if draft and draft[0] == self.sequence.token_ids[-1]:
            self.sequence.num_computed += 1
            return True
        self.lookup.learn(len(self.sequence.draft), len(self.sequence.draft) - len(draft))
        return False

    def take(self, choice: Choice) -> bool:
        """Deliver the next token. True if it was the last."""
        self.sequence.token_ids.append(choice.token_id)
        num_tokens = self._num_tokens
        reason: FinishReason | None = None
        if choice.token_id in self._runner.end_ids:
            reason = "stop"
        else:
            if choice.logprob is not None:
                self._logprobs.append(self._runner.describe(choice))
            self._deliver(self._text.push(choice.token_id))
        if self._text.stopped:
            reason = "stop"
        elif reason is None and num_tokens >= self.request.max_tokens:
            reason = "length"
        if reason is None:
            return False
        self._deliver(self._text.flush())
        if self._text.stopped:
            reason = "stop"
        self.request.deliver(Finish(reason, self.sequence.num_prompt, num_tokens))
        return True

    def _deliver(self, text: str) -> None:
        if text:
            self.request.deliver(Piece(text, tuple(self._logprobs)))
            self._logprobs.clear()


def _passes(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """All in one forward pass, but for those that are computed alone."""
    together = [chunk for chunk in chunks if not chunk.sequence.alone]
    return [*([together] if together else []), *([chunk] for chunk in chunks if chunk.sequence.alone)]


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch raises `OutOfMemoryError` on a GPU and a plain `RuntimeError` on a CPU."""
    text = str(error).lower()
    signs = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "alloc_failed")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)
