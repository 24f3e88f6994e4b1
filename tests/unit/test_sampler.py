"""Sampling: validation of settings, and choice of tokens held to transformers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from bot.errors import GeneratorFailed, InvalidInput
from bot.generation.engine.sampler import Choice, Sampler, choose
from bot.generation.port import Sampling, check_sampling

LOGITS = torch.tensor([3.0, 2.5, -1.0, 0.5, 2.0, -4.0, 1.5, 0.0])
NUM_DRAWS = 6000


class TokenSampler(Sampler):
    """Sampler with a choice for a single reply."""

    def choose(self, logits: torch.Tensor) -> Choice:
        (choice,) = choose([self], logits[None])
        assert isinstance(choice, Choice)
        return choice

    def pick_id(self, logits: torch.Tensor) -> int:
        return self.choose(logits).token_id


def sampler(prompt_ids: tuple[int, ...] = (), **values: Any) -> TokenSampler:
    return TokenSampler(Sampling(**values), prompt_ids)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", value) for value in (math.nan, math.inf, -0.1, 1e9, "1", None, True)),
        *(("top_p", value) for value in (math.nan, 0.0, -1.0, 1.1)),
        *(("min_p", value) for value in (math.nan, -0.1, 1.5)),
        *(("top_k", value) for value in (-1, 1.5, True, 10**12)),
        *(("repetition_penalty", value) for value in (0.0, -1.0, math.inf, math.nan, 1e9)),
        *(("max_tokens", value) for value in (0, -1, 1.0, math.nan, 10**12)),
        *((field, value) for field in ("presence_penalty", "frequency_penalty") for value in (math.nan, 2.1, "1")),
        *(("logprobs", value) for value in (-1, 21, 1.0, True)),
        *(("seed", value) for value in (-1, 2**63, 0.5)),
        *(("stop", value) for value in (("",), ("x" * 257,), ("x",) * 17, (1,), "END", ["END"])),
    ],
)
def test_invalid_values_are_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_sampling(replace(Sampling(), **{field: value}))
    assert refused.value.field == field
    assert field in refused.value.message.lower()


def test_usual_values_are_accepted() -> None:
    check_sampling(Sampling())
    check_sampling(Sampling(1, 2.0, 0.5, 50, 0.05, 1.1, ("a", "\n\n"), 2**63 - 1))
    check_sampling(Sampling(temperature=1, top_p=1))


def test_zero_and_tiny_temperatures_are_greedy() -> None:
    assert {sampler(temperature=value).pick_id(LOGITS) for value in (0.0, 1e-30, 1e-5) for _ in range(20)} == {0}


def test_a_single_candidate_is_always_chosen() -> None:
    for values in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 1.0001e-4}):
        narrow = sampler(**({"temperature": 5.0} | values))
        assert {narrow.pick_id(LOGITS) for _ in range(50)} == {0}


def test_equal_seeds_give_equal_tokens_beside_other_samplers() -> None:
    first = sampler(temperature=1.5, seed=7)
    drawn = [first.pick_id(LOGITS) for _ in range(40)]
    second, disturbing = sampler(temperature=1.5, seed=7), sampler(temperature=1.5, seed=8)
    again, other = [], []
    for _ in range(40):
        other.append(disturbing.pick_id(LOGITS))
        again.append(second.pick_id(LOGITS))
    assert again == drawn
    assert other != drawn


def test_without_a_seed_tokens_differ_each_time() -> None:
    samplers = [sampler(temperature=2.0) for _ in range(3)]
    assert len({tuple(unseeded.pick_id(LOGITS) for _ in range(40)) for unseeded in samplers}) == 3


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.5, "min_p": 0.2},
        {"temperature": 1.2, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.3},
    ],
)
def test_token_frequencies_match_transformers(values: dict[str, Any]) -> None:
    prompt_ids = (0, 2)
    expected = transformers_probabilities(Sampling(**values), prompt_ids)
    # A new sampler for each draw: the penalty would count the token just drawn.
    counts = Counter(sampler(prompt_ids, seed=seed, **values).pick_id(LOGITS) for seed in range(NUM_DRAWS))
    for token_id, probability in enumerate(expected.tolist()):
        assert counts[token_id] / NUM_DRAWS == pytest.approx(probability, abs=0.025)
        assert (counts[token_id] == 0) == (probability == 0) or probability < 0.01


def transformers_probabilities(sampling: Sampling, prompt_ids: tuple[int, ...]) -> torch.Tensor:
    steps = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(MinPLogitsWarper(sampling.min_p))
    scores: torch.Tensor = steps(torch.tensor([prompt_ids]), LOGITS[None].clone())
    return scores[0].softmax(-1)


def test_the_repetition_penalty_prefers_the_next_best_token() -> None:
    penalised = sampler(repetition_penalty=2.0)
    assert [penalised.pick_id(LOGITS) for _ in range(3)] == [0, 1, 4]
    assert sampler((0,), repetition_penalty=2.0).pick_id(LOGITS) == 1


def test_nan_scores_fail_only_their_own_reply() -> None:
    logits = torch.stack([LOGITS, LOGITS.clone().index_fill_(0, torch.tensor([3]), math.nan), LOGITS])
    samplers = [sampler(), sampler(), sampler(temperature=1.0, top_k=1)]
    first, broken, last = choose(samplers, logits)
    assert isinstance(broken, GeneratorFailed)
    assert first == last == Choice(0)


def test_presence_and_frequency_penalties_count_reply_tokens() -> None:
    assert [sampler(presence_penalty=1.2).pick_id(LOGITS)] == [0]
    present = sampler(presence_penalty=1.2)
    assert [present.pick_id(LOGITS) for _ in range(5)] == [0, 1, 4, 0, 0]
    frequent = sampler((0, 0, 0), frequency_penalty=1.0)
    assert [frequent.pick_id(LOGITS) for _ in range(5)] == [0, 1, 0, 4, 1]


def test_logprobs_ignore_sampling_settings() -> None:
    expected = LOGITS.log_softmax(-1)
    choice = sampler(logprobs=3, temperature=3.0, top_k=2, seed=1, repetition_penalty=1.5).choose(LOGITS)
    assert choice.logprob == pytest.approx(float(expected[choice.token_id]))
    assert [token_id for token_id, _ in choice.top] == [0, 1, 4]
    assert [logprob for _, logprob in choice.top] == pytest.approx([float(expected[i]) for i in (0, 1, 4)])
    assert sampler(logprobs=0).choose(LOGITS).top == ()
    assert sampler().choose(LOGITS).logprob is None


def test_a_high_top_p_draws_from_the_whole_vocabulary() -> None:
    flat = torch.zeros(5000)
    drawn = {sampler(temperature=1.0, top_p=0.99, seed=seed).pick_id(flat) for seed in range(300)}
    assert len(drawn) > 270
