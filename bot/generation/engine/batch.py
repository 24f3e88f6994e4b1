"""Engine loop of one model: schedule a step, run it, sample the next tokens.

Between two steps replies join, end and are aborted. A step has two phases (see `scheduler`): decode gives each running
reply its next token, or several with a draft; prefill computes a piece of a prompt. Prompts share prefixes that are
cached or being computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bot.errors import GeneratorFailed, MynaError
from bot.generation.engine.drafts import MAX_DRAFT, PromptLookup
from bot.generation.engine.generation import Chunk, Generation
from bot.generation.engine.prefix_cache import CachedPrefix, PrefixCache, common_length
from bot.generation.engine.sampler import Choice, Sampler, choose
from bot.generation.engine.scheduler import Move, Scheduler, StepLimits
from bot.generation.engine.text_stream import TextStream
from bot.generation.port import Finish, FinishReason, Piece, Sampling, TokenLogprob

if TYPE_CHECKING:
    import torch

    from bot.generation.engine.grammar import Grammar
    from bot.generation.engine.lora import LoraVersion
    from bot.generation.engine.runner import Runner

log = logging.getLogger("myna.engine")

# Share of the cache's memory for prefixes of replies that have ended.
PREFIX_SHARE = 0.25
# A shorter prefix is computed as quickly as it is copied.
MIN_SHARED_TOKENS = 16
# A prompt waits for the prefill of another if that saves it at least this many tokens.
WORTH_WAITING_TOKENS = 64


class GenerationRequest(Protocol):
    """A reply to generate, and the receiver of its events."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    version: LoraVersion | None
    priority: int
    grammar: Grammar | None
    aborted: bool

    def deliver(self, event: Piece | Finish | MynaError) -> None: ...

    def end(self) -> None:
        """Finish the request: no event follows. Called exactly once."""


class Batch:
    """The waiting and running replies of one model. All calls come from one thread."""

    def __init__(self, runner: Runner, limits: StepLimits | None = None) -> None:
        tokens = runner.cache_bytes // runner.decoder.bytes_per_token
        prefix_tokens = int(PREFIX_SHARE * tokens)
        self._runner = runner
        limits = limits or StepLimits(cache_tokens=tokens - prefix_tokens)
        self._scheduler = Scheduler(limits, runner.decoder.cache_size)
        self._replies: dict[Generation, _Reply] = {}
        self._prefixes: PrefixCache[Any] = PrefixCache(prefix_tokens)

    def __len__(self) -> int:
        return len(self._replies)

    def add(self, request: GenerationRequest) -> None:
        """Queue a reply for its first step."""
        prompt_ids = request.prompt_ids
        if request.aborted:  # read after the prompt: an abort sets the flag first and then empties the prompt
            request.end()
            return
        generation = Generation(list(prompt_ids), request.version, request.sampling.seed is not None, request.priority)
        self._replies[generation] = _Reply(request, generation, self._runner)
        self._scheduler.add(generation)

    def forget(self, version: LoraVersion) -> None:
        """Drop the cached prefixes of a retired version."""
        self._prefixes.forget(version)

    def step(self) -> None:
        """Run one step. If memory runs out, the running replies fail and the waiting ones stay."""
        try:
            with self._runner.inference_mode():
                self._step()
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            log.exception("There was not enough memory for %d replies at once", len(self._scheduler.running))
            self._give_up_running()

    def _step(self) -> None:
        for generation, reply in list(self._replies.items()):
            if reply.request.aborted:
                self._end(generation)
        while (last := self._scheduler.overflowing()) is not None:
            self._move(self._scheduler.preempt(last))
        copies = self._admit()
        self._propose_drafts()
        self._runner.decoder.reserve(len(self._scheduler.running), self._scheduler.longest)
        while copies:
            copies.pop(0)()  # popped, so that the memory of a copied prefix is freed at once
        for chunks in _passes(self._scheduler.schedule()):
            self._choose(chunks, self._runner.step(chunks, self._scheduler.running))

    def _give_up_running(self) -> None:
        for generation in list(self._scheduler.running):
            self._replies[generation].request.deliver(GeneratorFailed("The model ran out of memory. Try again."))
            self._remove(generation, keeps_row=False)
        self._runner.decoder.reset()
        self._prefixes.clear()

    def _propose_drafts(self) -> None:
        """Give decoding replies a draft each, as long as the step takes little longer."""
        running = self._scheduler.running
        spare = self._runner.decoder.spare_tokens - sum(generation.num_missing for generation in running)
        if not self._scheduler.has_room_for_drafts(MAX_DRAFT):
            spare = 0
        for generation in running:
            drafts = spare > 0 and generation.is_decoding and not generation.alone
            generation.draft = self._replies[generation].draft(spare) if drafts else ()
            spare -= len(generation.draft)

    def _choose(self, chunks: Sequence[Chunk], scores: torch.Tensor) -> None:
        """Sample the next token of each reply that is computed so far, and more while its draft agrees.

        Prefill chunks that don't reach the end of their prompt only count as computed.
        """
        pending: list[tuple[_Reply, tuple[int, ...], int]] = []  # reply, rest of its draft, index into `scores`
        ended: list[Generation] = []
        num_scores = 0
        for chunk in chunks:
            if chunk.completes:
                pending.append((self._replies[chunk.generation], chunk.draft, num_scores))
            chunk.generation.num_computed += chunk.count
            num_scores += chunk.num_scores
        while pending:
            choices = choose([reply.sampler for reply, *_ in pending], scores[[index for *_, index in pending]])
            accepted = []
            for (reply, draft, index), choice in zip(pending, choices, strict=True):
                if self._take(reply, choice):
                    ended.append(reply.generation)
                elif reply.accept_draft(draft):
                    accepted.append((reply, draft[1:], index + 1))
            pending = accepted
        for generation in ended:  # only now, as rows move when a reply ends
            self._end(generation)

    def _take(self, reply: _Reply, choice: Choice | GeneratorFailed) -> bool:
        """Give a reply its next token, or its failure. Return True if the reply is over."""
        if isinstance(choice, Choice):
            return reply.take(choice)
        assert reply.generation.row is not None
        self._runner.decoder.clear(reply.generation.row)
        reply.generation.num_computed = 0
        reply.request.deliver(choice)
        return True

    def _admit(self) -> list[Callable[[], None]]:
        """Admit waiting replies, and return the calls that copy shared prefixes into their rows.

        The caller makes the calls in order, once the decoder has reserved memory for the rows.
        """
        copies: list[Callable[[], None]] = []
        for generation in list(self._scheduler.waiting):
            if not self._scheduler.has_room_for(generation):
                break  # those behind must not overtake
            source, shared = self._find_prefix(generation)
            if self._is_being_computed(generation, shared):
                continue
            self._scheduler.admit(generation)
            if source is not None:
                copies.append(self._share_prefix(source, generation, shared))
        return copies

    def _find_prefix(self, generation: Generation) -> tuple[CachedPrefix[Any] | Generation | None, int]:
        """Return the cached prefix or running reply that shares the most leading tokens, and how many it shares.

        At least one token is left to compute, since its scores are needed.
        """
        if not self._may_share(generation):
            return None, 0
        wanted = generation.token_ids[:-1]
        source: CachedPrefix[Any] | Generation | None
        source, shared = self._prefixes.find(generation.version, wanted)
        for other in self._same_version(generation):
            common = min(common_length(other.token_ids, wanted), other.num_computed)
            if common > shared:
                source, shared = other, common
        return (source, shared) if shared >= MIN_SHARED_TOKENS else (None, 0)

    def _share_prefix(
        self, source: CachedPrefix[Any] | Generation, generation: Generation, count: int
    ) -> Callable[[], None]:
        """Mark `count` tokens as computed, and return the call that copies them into the row.

        The next reply may share the same tokens, if its copy is made after this one.
        """
        decoder, target = self._runner.decoder, generation.row
        assert target is not None
        generation.num_computed = count
        if isinstance(source, CachedPrefix):
            if count == len(source.token_ids):
                self._prefixes.take(source)
            return lambda: decoder.copy_in(target, source.content, count)
        row = source.row
        assert row is not None
        return lambda: decoder.copy_in(target, decoder.copy_out(row, count), count)

    def _is_being_computed(self, generation: Generation, shared: int) -> bool:
        """Return True if the prefill of a running reply will soon give a much longer shared prefix."""
        if not self._may_share(generation):
            return False
        return any(
            common_length(other.token_ids, generation.token_ids[:-1]) - max(shared, other.num_computed)
            >= WORTH_WAITING_TOKENS
            for other in self._same_version(generation)
            if other.priority <= generation.priority
        )

    def _may_share(self, generation: Generation) -> bool:
        return self._runner.decoder.can_cut and not generation.alone

    def _same_version(self, generation: Generation) -> list[Generation]:
        return [other for other in self._scheduler.running if other.version is generation.version]

    def _end(self, generation: Generation) -> None:
        """End a reply, and keep its keys and values for prompts that continue it."""
        retired = generation.version is not None and generation.version.retired
        decoder, count = self._runner.decoder, generation.num_computed
        fits = MIN_SHARED_TOKENS <= count <= self._prefixes.max_tokens
        if generation.row is not None and fits and not retired and decoder.can_cut:
            content = decoder.copy_out(generation.row, count)
            self._prefixes.keep(generation.version, generation.token_ids[:count], content)
        self._remove(generation)

    def _remove(self, generation: Generation, *, keeps_row: bool = True) -> None:
        """Remove a reply. `keeps_row=False` leaves the rows' content where it is, for a cache that is then reset."""
        self._replies.pop(generation).request.end()
        move = self._scheduler.remove(generation)
        if keeps_row:
            self._move(move)

    def _move(self, move: Move | None) -> None:
        if move is not None:
            tokens = self._scheduler.running[move.target].num_computed
            self._runner.decoder.move(move.source, move.target, tokens)
        self._runner.decoder.release(len(self._scheduler.running))


class _Reply:
    """A request with its generation: sampling, draft proposals and text."""

    def __init__(self, request: GenerationRequest, generation: Generation, runner: Runner) -> None:
        self.request = request
        self.generation = generation
        self.sampler = Sampler(request.sampling, generation.token_ids, request.grammar)
        self._runner = runner
        self._lookup = PromptLookup(generation.token_ids)
        self._text = TextStream(runner.decode, request.sampling.stop, runner.silent_ids)
        self._logprobs: list[TokenLogprob] = []

    @property
    def _num_tokens(self) -> int:
        return len(self.generation.token_ids) - self.generation.num_prompt

    def draft(self, most: int) -> tuple[int, ...]:
        """Propose at most `most` tokens to follow the next one, within `max_tokens` of the reply."""
        return self._lookup.propose(min(most, MAX_DRAFT, self.request.max_tokens - self._num_tokens - 1))

    def accept_draft(self, draft: tuple[int, ...]) -> bool:
        """Return True if the draft begins with the token just chosen, which then counts as computed."""
        if draft and draft[0] == self.generation.token_ids[-1]:
            self.generation.num_computed += 1
            return True
        self._lookup.learn(len(self.generation.draft), len(self.generation.draft) - len(draft))
        return False

    def take(self, choice: Choice) -> bool:
        """Append the next token and deliver its text. Return True if it was the last."""
        self.generation.token_ids.append(choice.token_id)
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
        self.request.deliver(Finish(reason, self.generation.num_prompt, num_tokens))
        return True

    def _deliver(self, text: str) -> None:
        if text:
            self.request.deliver(Piece(text, tuple(self._logprobs)))
            self._logprobs.clear()


def _passes(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Group chunks by forward pass: all together, but for those that are computed alone."""
    together = [chunk for chunk in chunks if not chunk.generation.alone]
    return [*([together] if together else []), *([chunk] for chunk in chunks if chunk.generation.alone)]


def _is_out_of_memory(error: BaseException) -> bool:
    """Return True for torch's `OutOfMemoryError` (GPU) and for the plain `RuntimeError` it raises on a CPU."""
    text = str(error).lower()
    signs = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "alloc_failed")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)
