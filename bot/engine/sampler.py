"""The choice of the next token from a model's scores.

Knows: `Sampling` and one row of logits. Does not know: models, tokens' text or other sequences. `check_sampling` needs
no torch, so that bad requests are refused before anything is queued.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bot.errors import GeneratorFailed, InvalidInput
from bot.generator import Sampling

if TYPE_CHECKING:
    import torch

# Dividing by less leaves float32's range, and the likeliest token then has all the probability anyway.
GREEDY_BELOW = 1e-4
MAX_TEMPERATURE = 10.0
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
LARGEST_INTEGER = 2**31 - 1
LARGEST_SEED = 2**63 - 1


def check_sampling(sampling: Sampling) -> None:
    """Raise `InvalidInput`, naming the field, for a value that no model can take."""
    _check_integer("max_tokens", sampling.max_tokens, 1, LARGEST_INTEGER)
    _check_number("temperature", sampling.temperature, 0.0, MAX_TEMPERATURE)
    _check_number("top_p", sampling.top_p, 0.0, 1.0)
    _check_integer("top_k", sampling.top_k, 0, LARGEST_INTEGER)
    _check_number("min_p", sampling.min_p, 0.0, 1.0)
    _check_number("repetition_penalty", sampling.repetition_penalty, 0.1, 10.0)
    if sampling.top_p == 0:
        raise InvalidInput("top_p must be more than 0. Use 1 to switch it off.", field="top_p")
    if sampling.seed is not None:
        _check_integer("seed", sampling.seed, 0, LARGEST_SEED)
    _check_stop(sampling.stop)


def _check_integer(field: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"{field} must be a whole number from {low} to {high}.", field=field)


def _check_number(field: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise InvalidInput(f"{field} must be a number from {low:g} to {high:g}.", field=field)


def _check_stop(stop: object) -> None:
    if not isinstance(stop, tuple) or len(stop) > MAX_STOP_STRINGS:
        raise InvalidInput(f"stop takes at most {MAX_STOP_STRINGS} strings.", field="stop")
    if any(not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_LENGTH for text in stop):
        raise InvalidInput(f"Each stop string must have 1 to {MAX_STOP_LENGTH} characters.", field="stop")


class Sampler:
    """Picks the tokens of one reply; equal seeds and logits give equal tokens on one machine.

    The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int], vocab_size: int, device: torch.device) -> None:
        import torch

        self._sampling = sampling
        self._greedy = sampling.temperature < GREEDY_BELOW
        self._random = torch.Generator(device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)
        self._penalises = sampling.repetition_penalty != 1.0
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        if self._penalises:
            self._seen[torch.tensor(prompt_ids, dtype=torch.long, device=device)] = True

    def pick(self, logits: torch.Tensor) -> int:
        """The next token id, from the scores of the whole vocabulary."""
        scores = logits.float()
        if bool(scores.isnan().any()):
            raise GeneratorFailed("The model computed no usable scores. Try again; if it persists, check its files.")
        if self._penalises:
            scores = self._penalise(scores)
        token_id = int(scores.argmax()) if self._greedy else self._draw(scores)
        if self._penalises:
            self._seen[token_id] = True
        return token_id

    def _penalise(self, scores: torch.Tensor) -> torch.Tensor:
        penalty = self._sampling.repetition_penalty
        return scores.where(~self._seen, (scores / penalty).where(scores > 0, scores * penalty))

    def _draw(self, scores: torch.Tensor) -> int:
        candidates, token_ids = self._candidates(scores)
        drawn = self._filter(candidates).multinomial(1, generator=self._random)
        return int(drawn if token_ids is None else token_ids[drawn])

    def _candidates(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores that may be drawn, with their token ids. Only top-p needs all in order, and sorting costs 5 ms."""
        sampling = self._sampling
        if 0 < sampling.top_k < len(scores):
            best = scores.topk(sampling.top_k)
            return best.values, best.indices
        if sampling.top_p < 1.0:
            ordered = scores.sort(descending=True, stable=True)
            return ordered.values, ordered.indices
        return scores, None

    def _filter(self, candidates: torch.Tensor) -> torch.Tensor:
        """Probabilities to draw from, not normed. The likeliest token always stays."""
        sampling = self._sampling
        probabilities = ((candidates - candidates.max()) / sampling.temperature).softmax(-1)
        if sampling.top_p < 1.0:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.where(before < sampling.top_p, 0.0)
        if sampling.min_p > 0.0:
            probabilities = probabilities.where(probabilities >= sampling.min_p * probabilities.max(), 0.0)
        return probabilities
