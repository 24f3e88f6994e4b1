"""The choice of the next token from a model's scores.

Knows: `Sampling`, logits, what a grammar allows. Does not know: models or tokens' text. The values are checked before
(`bot.generation.port`).
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

# Dividing by less leaves float32's range, and the likeliest token then has all the probability anyway.
GREEDY_BELOW = 1e-4
LIKELIEST = 256
# A random number so near to 1 that float32 rounds it up would choose nothing.
ALMOST_ONE = 1 - 2**-20


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen token and, where asked for, the logarithms of its and the likeliest tokens' probabilities."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Picks the tokens of one reply; equal seeds and logits give equal tokens, whatever else runs.

    The order is that of transformers: penalties, temperature, top-k, top-p, min-p. A grammar comes before all.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int], grammar: Grammar | None = None) -> None:
        self._sampling = sampling
        self._greedy = sampling.temperature < GREEDY_BELOW
        # Not torch's: one number a token, the same on every device. The choice is no secret.
        self._random = random.Random(sampling.seed)
        self._grammar = grammar
        self._penalises = sampling.repetition_penalty != 1.0
        self._seen = _Seen(prompt_ids) if self._penalises else None
        self._counts: Counter[int] = Counter()
        self._counts_matter = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self._changes_scores = self._penalises or self._counts_matter or grammar is not None

    def adjust(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Write penalties and a grammar's limits into the scores of the vocabulary, in float32.

        Gives the logarithms of the probabilities that were there before, where these are asked for.
        """
        logprobs = None if self._sampling.logprobs is None else scores.log_softmax(-1)
        if self._changes_scores:
            self._change(scores)
        return logprobs

    def pick(self, scores: torch.Tensor, likeliest: int, logprobs: torch.Tensor | None) -> Choice:
        """The next token, from scores that are adjusted."""
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

    def _change(self, scores: torch.Tensor) -> None:
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
        """By one random number on the cumulated probabilities: inverse transform sampling."""
        candidates, token_ids = self._candidates(scores / self._sampling.temperature)
        cumulated = self._filter(candidates).cumsum(-1)
        drawn = int((cumulated > ALMOST_ONE * self._random.random() * float(cumulated[-1])).int().argmax())
        return drawn if token_ids is None else int(token_ids[drawn])

    def _candidates(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(probabilities, token ids)` that may be drawn, the likeliest first if there are ids."""
        sampling = self._sampling
        if 0 < sampling.top_k < len(scores):
            best = scores.topk(sampling.top_k)
            return best.values.softmax(-1), best.indices
        probabilities = scores.softmax(-1)
        if sampling.top_p == 1.0:
            return probabilities, None
        # Sorting all takes 5 ms, and the first few hundred nearly always hold the share that is asked for.
        values, token_ids = probabilities.topk(min(LIKELIEST, len(scores)))
        if float(values.sum()) < sampling.top_p:
            values, token_ids = probabilities.sort(descending=True, stable=True)
        return values, token_ids

    def _filter(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Probabilities to draw from, not normed. The likeliest token always stays."""
        sampling = self._sampling
        if sampling.top_p < 1.0:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.where(before < sampling.top_p, 0.0)
        if sampling.min_p > 0.0:
            probabilities = probabilities.where(probabilities >= sampling.min_p * probabilities.max(), 0.0)
        return probabilities


class _Seen:
    """The tokens of prompt and reply as an index, to which one is added quickly. One may stand in it twice."""

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
    """The next token of each reply from `logits [replies, vocabulary]`, or why there is none."""
    scores = logits.float()
    if scores.data_ptr() == logits.data_ptr():
        scores = scores.clone()
    logprobs = [_adjust(sampler, row) for sampler, row in zip(samplers, scores, strict=True)]
    highest, likeliest = scores.max(-1)  # of all in one operation; NaN is taken for the highest
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
