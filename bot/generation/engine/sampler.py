"""Sampling of the next token: penalties, temperature, top-k, top-p, min-p.

The values are checked before, by `bot.generation.port`.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot.errors import GeneratorFailed
from bot.generation.port import Sampling

if TYPE_CHECKING:
    import torch

    from bot.generation.engine.grammar import Grammar

# Dividing by a lower temperature leaves float32's range, and the likeliest token has all the probability anyway.
GREEDY_BELOW = 1e-4
LIKELIEST = 256
# Keeps a random number that float32 would round up to 1 from choosing nothing.
ALMOST_ONE = 1 - 2**-20


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen token and, if requested, the log probabilities of it and of the likeliest tokens."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Sampler of one reply: equal seeds and logits give equal tokens, whatever else runs.

    The order is that of transformers: penalties, temperature, top-k, top-p, min-p. A grammar masks tokens before the
    temperature.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int], grammar: Grammar | None = None) -> None:
        self._sampling = sampling
        self._greedy = sampling.temperature < GREEDY_BELOW
        # Python's generator instead of torch's: one number per token, the same on every device. It guards no secret.
        self._random = random.Random(sampling.seed)
        self._grammar = grammar
        self._penalises = sampling.repetition_penalty != 1.0
        self._seen = _Seen(prompt_ids) if self._penalises else None
        self._counts: Counter[int] = Counter()
        self._counts_matter = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self._changes_scores = self._penalises or self._counts_matter or grammar is not None

    def adjust(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Apply penalties and the grammar's mask to the scores of the vocabulary, in place, in float32.

        Return the log probabilities from before, if the request asks for them.
        """
        logprobs = None if self._sampling.logprobs is None else scores.log_softmax(-1)
        if self._changes_scores:
            self._apply(scores)
        return logprobs

    def pick(self, scores: torch.Tensor, likeliest: int, logprobs: torch.Tensor | None) -> Choice:
        """Choose the next token from adjusted scores."""
        token_id = likeliest if self._greedy else self._draw(scores)
        if self._seen is not None:
            self._seen.add(token_id)
        if self._counts_matter:
            self._counts[token_id] += 1
        if self._grammar is not None:
            self._grammar.accept(token_id)
        return Choice(token_id) if logprobs is None else self._with_logprobs(token_id, logprobs)

    def _with_logprobs(self, token_id: int, logprobs: torch.Tensor) -> Choice:
        best = logprobs.topk(self._sampling.logprobs or 0)
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Choice(token_id, float(logprobs[token_id]), top)

    def _apply(self, scores: torch.Tensor) -> None:
        import torch

        if self._seen is not None:
            seen, penalty = self._seen.on(scores.device), self._sampling.repetition_penalty
            found = scores[seen]
            scores[seen] = torch.where(found > 0, found / penalty, found * penalty)
        if self._counts:
            token_ids = torch.tensor(list(self._counts), device=scores.device)
            counts = torch.tensor(list(self._counts.values()), dtype=scores.dtype, device=scores.device)
            scores[token_ids] -= self._sampling.presence_penalty + self._sampling.frequency_penalty * counts
        if self._grammar is not None:
            scores.masked_fill_(self._grammar.forbidden(scores), -math.inf)

    def _draw(self, scores: torch.Tensor) -> int:
        """Draw a token by one random number on the cumulative probabilities: inverse transform sampling."""
        candidates, token_ids = self._candidates(scores / self._sampling.temperature)
        cumulative = self._filter(candidates).cumsum(-1)
        drawn = int((cumulative > ALMOST_ONE * self._random.random() * float(cumulative[-1])).int().argmax())
        return drawn if token_ids is None else int(token_ids[drawn])

    def _candidates(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return `(probabilities, token ids)` to draw from, the likeliest first; without ids, the whole vocabulary."""
        sampling = self._sampling
        if 0 < sampling.top_k < len(scores):
            best = scores.topk(sampling.top_k)
            return best.values.softmax(-1), best.indices
        probabilities = scores.softmax(-1)
        if sampling.top_p == 1.0:
            return probabilities, None
        # Sorting the vocabulary takes 5 ms, and the likeliest few hundred nearly always hold the share `top_p`.
        values, token_ids = probabilities.topk(min(LIKELIEST, len(scores)))
        if float(values.sum()) < sampling.top_p:
            values, token_ids = probabilities.sort(descending=True, stable=True)
        return values, token_ids

    def _filter(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Apply top-p and min-p; the result is not normalised. The likeliest token always stays."""
        sampling = self._sampling
        if sampling.top_p < 1.0:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.where(before < sampling.top_p, 0.0)
        if sampling.min_p > 0.0:
            probabilities = probabilities.where(probabilities >= sampling.min_p * probabilities.max(), 0.0)
        return probabilities


class _Seen:
    """Token ids of prompt and reply as an index tensor that grows quickly. An id may occur twice."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        import torch

        self._token_ids = torch.tensor(token_ids, dtype=torch.long)
        self._count = len(token_ids)

    def add(self, token_id: int) -> None:
        if self._count == len(self._token_ids):
            grown = self._token_ids.new_zeros(2 * self._count + 64)
            grown[: self._count] = self._token_ids
            self._token_ids = grown
        self._token_ids[self._count] = token_id
        self._count += 1

    def on(self, device: torch.device) -> torch.Tensor:
        return self._token_ids[: self._count].to(device)


def choose(samplers: Sequence[Sampler], logits: torch.Tensor) -> list[Choice | GeneratorFailed]:
    """Choose the next token of each reply from `logits [replies, vocabulary]`, or return the reply's failure."""
    scores = logits.float()
    if scores.data_ptr() == logits.data_ptr():
        scores = scores.clone()
    logprobs = [_adjust(sampler, row) for sampler, row in zip(samplers, scores, strict=True)]
    highest, likeliest = scores.max(-1)  # one operation for all replies; NaN counts as the highest
    return [
        _pick(sampler, row, score, token_id, before)
        for sampler, row, score, token_id, before in zip(
            samplers, scores, highest.tolist(), likeliest.tolist(), logprobs, strict=True
        )
    ]


def _adjust(sampler: Sampler, scores: torch.Tensor) -> torch.Tensor | GeneratorFailed | None:
    try:
        return sampler.adjust(scores)
    except GeneratorFailed as error:
        return error


def _pick(
    sampler: Sampler,
    scores: torch.Tensor,
    highest: float,
    likeliest: int,
    logprobs: torch.Tensor | GeneratorFailed | None,
) -> Choice | GeneratorFailed:
    if isinstance(logprobs, GeneratorFailed):
        return logprobs
    if math.isnan(highest):
        return GeneratorFailed("The model computed no usable scores. Try again, or check its files.")
    return sampler.pick(scores, likeliest, logprobs)
