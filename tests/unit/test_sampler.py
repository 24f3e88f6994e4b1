"""What is refused as sampling, and which tokens are chosen."""

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

from bot.engine.sampler import Sampler, check_sampling
from bot.errors import GeneratorFailed, InvalidInput
from bot.generator import Sampling

CPU = torch.device("cpu")
LOGITS = torch.tensor([3.0, 2.5, -1.0, 0.5, 2.0, -4.0, 1.5, 0.0])
NUM_DRAWS = 6000


def sampler(prompt_ids: tuple[int, ...] = (), **values: Any) -> Sampler:
    return Sampler(Sampling(**values), prompt_ids, len(LOGITS), CPU)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", value) for value in (math.nan, math.inf, -0.1, 1e9, "1", None, True)),
        *(("top_p", value) for value in (math.nan, 0.0, -1.0, 1.1)),
        *(("min_p", value) for value in (math.nan, -0.1, 1.5)),
        *(("top_k", value) for value in (-1, 1.5, True, 10**12)),
        *(("repetition_penalty", value) for value in (0.0, -1.0, math.inf, math.nan, 1e9)),
        *(("max_tokens", value) for value in (0, -1, 1.0, math.nan, 10**12)),
        *(("seed", value) for value in (-1, 2**63, 0.5)),
        *(("stop", value) for value in (("",), ("x" * 257,), ("x",) * 17, (1,), "END", ["END"])),
    ],
)
def test_unusable_values_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_sampling(replace(Sampling(), **{field: value}))
    assert refused.value.field == field
    assert field in refused.value.message.lower()


def test_usual_values_are_taken() -> None:
    check_sampling(Sampling())
    check_sampling(Sampling(1, 2.0, 0.5, 50, 0.05, 1.1, ("a", "\n\n"), 2**63 - 1))
    check_sampling(Sampling(temperature=1, top_p=1))


def test_temperature_zero_and_a_vanishing_temperature_are_greedy() -> None:
    assert {sampler(temperature=value).pick(LOGITS) for value in (0.0, 1e-30, 1e-5) for _ in range(20)} == {0}


def test_one_candidate_is_always_chosen() -> None:
    for values in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 1.0001e-4}):
        one = sampler(**({"temperature": 5.0} | values))
        assert {one.pick(LOGITS) for _ in range(50)} == {0}


def test_equal_seeds_give_equal_tokens_and_other_samplers_do_not_disturb_them() -> None:
    first = sampler(temperature=1.5, seed=7)
    drawn = [first.pick(LOGITS) for _ in range(40)]
    second, disturbing = sampler(temperature=1.5, seed=7), sampler(temperature=1.5, seed=8)
    again, other = [], []
    for _ in range(40):
        other.append(disturbing.pick(LOGITS))
        again.append(second.pick(LOGITS))
    assert again == drawn
    assert other != drawn


def test_no_seed_gives_other_tokens_each_time() -> None:
    assert (
        len({tuple(one.pick(LOGITS) for _ in range(40)) for one in [sampler(temperature=2.0) for _ in range(3)]}) == 3
    )


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
def test_frequencies_are_those_of_transformers(values: dict[str, Any]) -> None:
    prompt_ids = (0, 2)
    expected = transformers_probabilities(Sampling(**values), prompt_ids)
    # A sampler for each draw: the penalty would count the token just drawn.
    counts = Counter(sampler(prompt_ids, seed=seed, **values).pick(LOGITS) for seed in range(NUM_DRAWS))
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


def test_a_repeated_token_loses_to_the_next_best() -> None:
    penalised = sampler(repetition_penalty=2.0)
    assert [penalised.pick(LOGITS) for _ in range(3)] == [0, 1, 4]
    assert sampler((0,), repetition_penalty=2.0).pick(LOGITS) == 1


def test_scores_that_are_not_numbers_fail_instead_of_choosing() -> None:
    with pytest.raises(GeneratorFailed):
        sampler().pick(LOGITS * math.nan)
