"""Greedy replies of the engine against `model.generate` of transformers.

Both compute in float32 and must agree token by token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch._dynamo.utils import counters

from bot.errors import GeneratorFailed
from bot.generation.engine.batch import Batch
from bot.generation.engine.drafts import PromptLookup
from bot.generation.engine.llama import LlamaDecoder
from bot.generation.engine.runner import Runner
from bot.generation.engine.scheduler import StepLimits
from bot.generation.port import ChatMessage
from tests.builders.engine_requests import Wanted, add, count_computed, finish, prompts, scripted_drafts
from tests.builders.tiny_models import CONFIGS, FAST, save_tiny

pytestmark = pytest.mark.model
SYSTEM = [random.Random(1).randrange(100, 8_000) for _ in range(40)]
STARTER = "starter"


class Reference:
    """The engine's runner and the plain transformers model."""

    def __init__(self, folder: Path, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.is_starter = num_tokens < 20
        self.runner = Runner(folder, "cpu", None, context_tokens=512, exact=True)
        self._net: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(self, wanted: Wanted) -> list[int]:
        inputs = torch.tensor([wanted.prompt_ids])
        output = self._net.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=wanted.max_tokens,
            do_sample=False,
            pad_token_id=2,
        )
        new_ids: list[int] = output[0, len(wanted.prompt_ids) :].tolist()
        return new_ids


@pytest.fixture(scope="module", params=[*CONFIGS, STARTER])
def reference(
    request: pytest.FixtureRequest, starter_model_path: Path, tiny_of: Callable[[str], Path]
) -> Iterator[Reference]:
    if request.param == STARTER:
        yield Reference(starter_model_path, 5)
        return
    made = Reference(tiny_of(request.param), 20)
    assert made.runner.decoder.can_cut == (request.param in FAST)
    yield made


def test_a_single_reply(reference: Reference) -> None:
    for prompt in prompts(1, 65):
        request = Wanted(prompt, reference.num_tokens)
        assert finish(Batch(reference.runner), request) == [reference.generate(request)]


def test_a_batch_that_replies_join_and_leave(reference: Reference) -> None:
    batch = Batch(reference.runner)
    lengths = (30, 3, 80, 1, 17)
    wanted = [
        Wanted(prompt, 3 + reference.num_tokens * number // 5)
        for number, prompt in enumerate(prompts(*lengths), start=1)
    ]
    for request in wanted:
        add(batch, request)
        batch.step()
        batch.step()
    finish(batch)
    assert [request.new_ids for request in wanted] == [reference.generate(request) for request in wanted]


def test_prefill_in_chunks(reference: Reference) -> None:
    wanted = [Wanted(prompt, reference.num_tokens) for prompt in prompts(70, 20, 45, seed=1)]
    got = finish(Batch(reference.runner, StepLimits(step_tokens=16)), *wanted)
    assert got == [reference.generate(request) for request in wanted]


def test_prefixes_shared_with_others_and_with_earlier_turns(reference: Reference) -> None:
    batch = Batch(reference.runner)
    num_tokens = reference.num_tokens
    first = [Wanted(SYSTEM + prompt, num_tokens) for prompt in prompts(10, 20, 5, seed=2)]
    assert finish(batch, *first) == [reference.generate(request) for request in first]
    second = [
        Wanted([*request.prompt_ids, *request.new_ids, *more], num_tokens)
        for request, more in zip(first, prompts(7, 1, 30, seed=3), strict=True)
    ]
    counted = count_computed(batch)
    assert finish(batch, *second) == [reference.generate(request) for request in second]
    if reference.runner.decoder.can_cut:
        # The new tokens, and the last token of each of the three answers, which was never computed.
        assert counted["prompt"] == 7 + 1 + 30 + 3


def test_preemption_in_a_cache_too_small_for_all(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    if reference.is_starter:
        pytest.skip("takes long, and the tiny models cover it")
    preempted: list[object] = []
    batch = Batch(reference.runner, StepLimits(rows=4, cache_tokens=256))
    preempt = batch._scheduler.preempt
    batch._scheduler.preempt = lambda running: (preempted.append(running), preempt(running))[1]  # type: ignore[method-assign]
    wanted = [Wanted(prompt, 12) for prompt in prompts(55, 50, 40, 10, seed=4)]
    sizes = watch_memory(reference.runner.decoder, monkeypatch)
    assert finish(batch, *wanted) == [reference.generate(request) for request in wanted]
    assert preempted
    assert max(sizes, default=0) <= 256


def watch_memory(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the cache's size in tokens before each step; empty for decoders without one block of rows."""
    decoder.reset()
    sizes: list[int] = []
    reserve = decoder.reserve

    def watching(rows: int, tokens: int) -> None:
        reserve(rows, tokens)
        if isinstance(decoder, LlamaDecoder):
            sizes.append(decoder.rows.count * decoder.rows.slots)

    monkeypatch.setattr(decoder, "reserve", watching)
    return sizes


@pytest.mark.parametrize("num_rows", [1, 2, 4, 7])
def test_drafts_save_steps_and_change_nothing(
    reference: Reference, monkeypatch: pytest.MonkeyPatch, num_rows: int
) -> None:
    """Drafts are right, wrong from some token on, or missing, with several rows and prefills beside them."""
    decoder = reference.runner.decoder
    if not decoder.spare_tokens or (reference.is_starter and num_rows > 2):
        pytest.skip("has no drafts, or would take long")
    monkeypatch.setattr(decoder, "spare_tokens", 5 * num_rows)
    lengths = [9, 30, 12, 70, 41, 5, 22][:num_rows]
    num_tokens = 2 * reference.num_tokens
    wanted = [Wanted(prompt, num_tokens + i) for i, prompt in enumerate(prompts(*lengths, seed=16))]
    replies = [reference.generate(request) for request in wanted]
    monkeypatch.setattr(PromptLookup, "propose", scripted_drafts(wanted, replies))
    batch = Batch(reference.runner, StepLimits(step_tokens=48))
    counted = count_computed(batch)
    assert finish(batch, *wanted) == replies
    assert all(request.num_ends == 1 for request in wanted)
    assert counted["steps"] < num_tokens


def test_drafts_save_steps_when_the_starter_model_repeats_text(reference: Reference) -> None:
    if not reference.is_starter:
        pytest.skip("random models do not repeat")
    text = "Say this again, word for word: The workshop sharpens shears for twelve euros, on Mondays from nine to six."
    request = Wanted(reference.runner.encode([ChatMessage("user", text)]), 24)
    batch = Batch(reference.runner)
    counted = count_computed(batch)
    assert finish(batch, request) == [reference.generate(request)]
    assert counted["steps"] < len(request.new_ids) - 4


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_compilation_gives_the_same_tokens(kind: str, tmp_path: Path, starter_model_path: Path) -> None:
    folder = save_tiny(kind, tmp_path, starter_model_path)
    replies = []
    for compiles in (False, True):
        graphs = counters["stats"]["unique_graphs"]
        batch = Batch(Runner(folder, "cpu", None, context_tokens=512, exact=True, compiles=compiles))
        replies.append(finish(batch, *[Wanted(prompt, 12) for prompt in prompts(30, 3, 80)]))
        assert (counters["stats"]["unique_graphs"] > graphs) == compiles
    assert replies[0] == replies[1]


def test_an_abort_does_not_disturb_the_others(reference: Reference) -> None:
    batch = Batch(reference.runner)
    staying, leaving, last = [Wanted(prompt, reference.num_tokens) for prompt in prompts(9, 30, 12, seed=5)]
    add(batch, leaving, staying)
    for _ in range(4):
        batch.step()
    leaving.aborted = True
    finish(batch, last)
    assert leaving.num_ends == staying.num_ends == 1
    for request in (staying, last):
        assert request.new_ids == reference.generate(request)


def test_a_prompt_whose_last_chunk_is_one_token(reference: Reference) -> None:
    batch = Batch(reference.runner, StepLimits(step_tokens=17))
    wanted = [Wanted(prompt, 4) for prompt in prompts(16, 33, 18, 1, seed=6)]
    assert finish(batch, *wanted) == [reference.generate(request) for request in wanted]


def test_many_returning_conversations_grow_the_cache_once(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Growing copies all rows, so that it must not happen for each conversation."""
    decoder = reference.runner.decoder
    if not isinstance(decoder, LlamaDecoder) or reference.is_starter:
        pytest.skip("about the fast path's cache, for which one tiny model is enough")
    batch = Batch(reference.runner)
    first = [Wanted(SYSTEM + prompt, 2) for prompt in prompts(*[5] * 16, seed=8)]
    finish(batch, *first)
    finish(batch, Wanted(prompts(3, seed=9)[0], 3))  # a single reply shrinks the cache to few rows
    made: list[object] = []
    empty = decoder.rows._empty
    monkeypatch.setattr(decoder.rows, "_empty", lambda *shape: (made.append(shape), empty(*shape))[1])
    second = [Wanted([*request.prompt_ids, *request.new_ids, 7, 8], 3) for request in first]
    finish(batch, *second)
    num_blocks = len(decoder.rows.keys) + len(decoder.rows.values)
    assert len(made) <= 2 * num_blocks, "once to grow and once to shrink"
    assert [request.new_ids for request in second] == [reference.generate(request) for request in second]


def test_a_prompt_without_computed_tokens_moves_with_its_row(reference: Reference) -> None:
    """The first prompt fills the step and its reply ends with it, so that a row without content moves into its row."""
    batch = Batch(reference.runner, StepLimits(step_tokens=16))
    ended, moved, last = [
        Wanted(prompt, number) for prompt, number in zip(prompts(16, 20, 5, seed=10), (1, 3, 3), strict=True)
    ]
    assert finish(batch, ended, moved, last) == [reference.generate(request) for request in (ended, moved, last)]
    caches = getattr(reference.runner.decoder, "_caches", {})
    assert not caches, "an ended reply must not keep its memory"


def test_waiting_for_a_shared_prefix_blocks_nobody_else(reference: Reference) -> None:
    if not reference.runner.decoder.can_cut or reference.is_starter:
        pytest.skip("about shared prefixes, for which one tiny model is enough")
    batch = Batch(reference.runner, StepLimits(step_tokens=32))
    long = prompts(200, seed=11)[0]
    reading, waiting, quick = Wanted(long, 9), Wanted(long, 9), Wanted(prompts(4, seed=12)[0], 2)
    add(batch, reading, waiting, quick)
    for _ in range(10):
        batch.step()
    assert quick.num_ends == 1
    assert not reading.num_ends
    counted = count_computed(batch)
    finish(batch)
    assert counted["prompt"] < 50, "the prompt was prefilled once"
    assert [request.new_ids for request in (reading, waiting)] == [
        reference.generate(request) for request in (reading, waiting)
    ]


def test_nan_scores_end_one_reply_and_its_row_is_cleared(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = reference.runner.decoder
    if not isinstance(decoder, LlamaDecoder) or reference.is_starter:
        pytest.skip("about the fast path's rows, for which one tiny model is enough")
    batch = Batch(reference.runner)
    broken, *well = [Wanted(prompt, 9) for prompt in prompts(9, 12, 15, seed=13)]
    add(batch, broken, *well)
    batch.step()
    with torch.inference_mode():
        for block in (*decoder.rows.keys, *decoder.rows.values):
            block[0].fill_(float("nan"))
    finish(batch)
    assert isinstance(broken.events[-1], GeneratorFailed)
    # One of the others has moved into that row, and products read all slots of a row.
    assert [request.new_ids for request in well] == [reference.generate(request) for request in well]
