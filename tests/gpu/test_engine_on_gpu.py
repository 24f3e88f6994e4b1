"""Engine on a GPU: the same tokens as on a CPU, versions, seeds.

Skipped without a CUDA device. Speed is measured by `python -m benchmarks.engine`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bot.generation.engine.batch import Batch
from bot.generation.engine.runner import Runner
from bot.generation.port import Sampling
from tests.builders.engine_requests import Wanted, finish, prompts
from tests.builders.tiny_models import KINDS, save_tiny, save_version

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_float32_gives_the_same_tokens_as_a_cpu(kind: str, tmp_path: Path, starter_model_path: Path) -> None:
    folder = save_tiny(kind, tmp_path, starter_model_path)
    replies = []
    for device in ("cpu", "cuda"):
        runner = Runner(folder, device, None, context_tokens=512, exact=True)
        batch = Batch(runner)
        first = finish(batch, *[Wanted(prompt, 12) for prompt in prompts(30, 3, 80)])
        replies.append((first, finish(batch, *[Wanted(prompt, 12) for prompt in prompts(30, 3, 80, 60)])))
    assert replies[0] == replies[1]


def test_a_mixed_batch_of_versions_matches_a_cpu(tmp_path: Path, starter_model_path: Path) -> None:
    base = save_tiny("llama", tmp_path / "base", starter_model_path)
    for seed, (name, config) in enumerate(KINDS.items()):
        save_version(base, tmp_path / name, seed, **config)
    replies = []
    for device in ("cpu", "cuda"):
        runner = Runner(base, device, None, context_tokens=512, exact=True)
        versions = [None, *(runner.read_version(name, tmp_path / name, None) for name in KINDS)]
        wanted = [Wanted(prompts(40)[0], 10, version=version) for version in versions]
        replies.append(finish(Batch(runner), *wanted))
    assert replies[0] == replies[1]


def test_a_seed_in_bf16_gives_the_same_tokens_beside_others(starter_model_path: Path) -> None:
    runner = Runner(starter_model_path, "auto", None, context_tokens=512)
    sampling = Sampling(temperature=1.0, seed=3)
    prompt = runner.encode_text("The capital of France is")
    alone = finish(Batch(runner), Wanted(prompt, 12, sampling=sampling))
    others = [Wanted(other, 12) for other in prompts(50, 20, 5)]
    assert finish(Batch(runner), Wanted(prompt, 12, sampling=sampling), *others)[:1] == alone
    assert runner.decode(finish(Batch(runner), Wanted(prompt, 6))[0]).strip().startswith("Paris")
