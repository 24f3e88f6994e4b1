"""Which values of `Sampling` a model can take.

Knows: the limits, the same for every generator, so that a bad request is refused before anything is queued or sent.
Does not know: how tokens are chosen.
"""

from __future__ import annotations

from bot.errors import InvalidInput
from bot.generation.port import Sampling

MAX_TEMPERATURE = 10.0
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
LARGEST_INTEGER = 2**31 - 1
LARGEST_SEED = 2**63 - 1
MAX_LOGPROBS = 20


def check_sampling(sampling: Sampling) -> None:
    """Raise `InvalidInput`, naming the field, for a value that no model can take."""
    _check_integer("max_tokens", sampling.max_tokens, 1, LARGEST_INTEGER)
    _check_number("temperature", sampling.temperature, 0.0, MAX_TEMPERATURE)
    _check_number("top_p", sampling.top_p, 0.0, 1.0)
    _check_integer("top_k", sampling.top_k, 0, LARGEST_INTEGER)
    _check_number("min_p", sampling.min_p, 0.0, 1.0)
    _check_number("repetition_penalty", sampling.repetition_penalty, 0.1, 10.0)
    _check_number("presence_penalty", sampling.presence_penalty, -2.0, 2.0)
    _check_number("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0)
    if sampling.logprobs is not None:
        _check_integer("logprobs", sampling.logprobs, 0, MAX_LOGPROBS)
    if sampling.top_p == 0:
        raise InvalidInput("top_p must be more than 0. Use 1 to switch it off.", field="top_p")
    if sampling.seed is not None:
        _check_integer("seed", sampling.seed, 0, LARGEST_SEED)
    _check_stop(sampling.stop)


def _check_integer(field: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"{field} must be a whole number from {low} to {high}.", field=field)


def _check_number(field: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise InvalidInput(f"{field} must be a number from {low:g} to {high:g}.", field=field)


def _check_stop(stop: object) -> None:
    if not isinstance(stop, tuple) or len(stop) > MAX_STOP_STRINGS:
        raise InvalidInput(f"stop takes at most {MAX_STOP_STRINGS} strings.", field="stop")
    if any(not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_LENGTH for text in stop):
        raise InvalidInput(f"Each stop string must have 1 to {MAX_STOP_LENGTH} characters.", field="stop")
