"""Perplexity of held-out answers under each precision of the linear layers.

    python -m benchmarks.harm FILE [--rows N]

FILE has a conversation a line, `{"messages": [{"role", "content"}, ...]}`; the last message is the answer. The model is
the one of the settings. The columns are perplexity, and perplexity over that of plain bf16.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import print_rows
from bot.generation.engine import linear
from bot.generation.engine.generation import Chunk, Generation
from bot.generation.engine.llama import LlamaDecoder
from bot.generation.engine.runner import Runner
from bot.generation.models.sources import resolve_model
from bot.generation.port import ChatMessage
from bot.settings import load_settings

MAX_TOKENS = 1024
# Name, whether in float32, and up to how many rows 4 bits are used.
FORMS = (
    ("float32", True, 0),
    ("bf16", False, 0),
    ("4 bits where they fit, else bf16", False, 10**6),
    ("as served", False, linear.MAX_ROWS_4_BITS),
)


def perplexity(runner: Runner, rows: list[dict[str, Any]], chunk_tokens: int) -> float:
    """Return the perplexity over the tokens of all answers."""
    decoder, loss, count = runner.decoder, 0.0, 0
    assert isinstance(decoder, LlamaDecoder), "only the fast path has forms of fewer bits"
    for row in rows:
        *before, answer = [ChatMessage(one["role"], one["content"]) for one in row["messages"]]
        prompt = list(runner.encode(before))
        token_ids = [*prompt, *runner.encode_text(answer.content), *sorted(runner.end_ids)[:1]][:MAX_TOKENS]
        generation = Generation(token_ids[:-1], row=0)
        scores = []
        with runner.inference_mode():
            decoder.reset()
            decoder.reserve(1, len(token_ids))
            while generation.num_missing:
                left = len(prompt) - 1 - generation.num_computed  # of the prompt, which is read at once
                chunk = Chunk(generation, min(generation.num_missing, left if left > 0 else chunk_tokens))
                scores.append(decoder.forward([chunk], [generation], every_token=True))
                generation.num_computed += chunk.count
            logits = torch.cat(scores).float()[len(prompt) - 1 :]
            wanted = torch.tensor(token_ids[len(prompt) :])
            loss += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        count += len(wanted)
    return math.exp(loss / count)


def measure(file: Path, num_rows: int) -> Iterator[dict[str, Any]]:
    settings = load_settings(os.environ)
    path = resolve_model(settings.model, settings.data, print)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:num_rows]]
    found: dict[str, float] = {}
    for name, exact, max_rows in FORMS:
        linear.MAX_ROWS_4_BITS = max_rows
        runner = Runner(path, "cpu", None, context_tokens=MAX_TOKENS, exact=exact)
        # As it is served, an answer comes token by token.
        found[name] = perplexity(runner, rows, 1 if name == "as served" else MAX_TOKENS)
        over = round(found[name] / found["bf16"], 4) if "bf16" in found else math.nan
        yield {"linear layers".ljust(34): name.ljust(34), "perplexity": round(found[name], 4), "over bf16": over}


def main() -> None:
    parser = argparse.ArgumentParser(description="Perplexity under each form of the linear layers.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    print_rows(measure(arguments.file, arguments.rows), as_json=arguments.json)


if __name__ == "__main__":
    main()
