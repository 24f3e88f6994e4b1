"""Whether a version computes in the engine what it computed while it was trained.

Knows: how the engine reads a version and scores tokens. Does not know: how the version was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.generation.engine.generation import Chunk, Generation
from bot.generation.engine.runner import Runner
from bot.learning.train import checks
from bot.learning.train.network import LoraNetwork
from bot.learning.train.token_sequences import Row

NUM_ROWS = 4
MOST_TOKENS = 256


def check_served_as_trained(network: LoraNetwork, base: Path, version: Path, rows: Sequence[Row]) -> None:
    """Load the version as serving does, and compare scores after some prompts. Raises `CheckFailed`, `VersionError`."""
    prompts = [row.token_ids[: min(row.learnt[0], MOST_TOKENS)] for row in rows[:NUM_ROWS]]
    trained = [network.next_token_scores(prompt)[None] for prompt in prompts]
    with network.base_only():
        untrained = [network.next_token_scores(prompt)[None] for prompt in prompts]
    checks.check_differs_from_base(trained, untrained)
    runner = Runner(base, str(network.device), None, context_tokens=2 * MOST_TOKENS)
    loaded = runner.read_version(version.name, version, None)
    served = []
    with runner.inference_mode():
        for prompt in prompts:
            generation = Generation(list(prompt), row=0, version=loaded)
            runner.decoder.reserve(1, len(prompt))
            served.append(runner.step([Chunk(generation, len(prompt))], [generation]).float().cpu())
            runner.decoder.reset()
    checks.check_same_logits(served, [one.cpu() for one in trained])
