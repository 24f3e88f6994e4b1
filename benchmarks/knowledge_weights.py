"""The weights of `bot/knowledge/ranking.py`, fitted on the development half of the questions.

    python -m benchmarks.knowledge_weights DATA

Prints weights for `kb_en` (English) and `faq_zh` (Chinese). What is maximised is the likelihood that a passage of a
right article comes first among the candidates. Kinds of questions count alike, but `link_description`, where editors
say in other words what is on a page, three times: it is the hardest and the nearest to how customers ask.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.knowledge_installation import Knowledge, read_rows
from benchmarks.knowledge_search import is_development, prepare_articles
from bot.knowledge.ranking import ask, features
from storage import knowledge_search
from storage.schema import DEFAULT_WORKSPACE

KIND_WEIGHTS = {"link_description": 3.0}
# How sharp the likelihood is; with the ridge it only sets the scale of the weights.
SHARPNESS, RIDGE = 20.0, 1e-3


async def rows_of(knowledge: Knowledge, questions: list[dict[str, Any]]) -> list[tuple[Any, Any, float]]:
    """`(features, which of them are of a right article, weight)` of each question that has both kinds."""
    counts = Counter(one.get("type", "") for one in questions)
    await knowledge.search.warm()
    rows = []
    for one in questions:
        index, table = await knowledge.database.read(knowledge_search.load_index, DEFAULT_WORKSPACE, True)
        assert index is not None
        vector = knowledge.embedder.embed([one["question"]])[0]
        asked = ask(one["question"], vector, index)
        found = await knowledge.database.read(
            knowledge_search.candidates, DEFAULT_WORKSPACE, asked.words, vector, ["public"], index, table
        )
        assert found is not None
        right = np.array([passage.name in one["gold"] for passage in found.passages])
        if right.any() and not right.all():
            kind = one.get("type", "")
            rows.append((features(asked, found), right, KIND_WEIGHTS.get(kind, 1.0) / counts[kind]))
    return rows


def fit(rows: list[tuple[Any, Any, float]], used: list[int]) -> list[float]:
    weights = torch.full((len(used),), 0.3, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100)
    tensors = [
        (torch.tensor(x[:, used], dtype=torch.float32), torch.tensor(right), weight) for x, right, weight in rows
    ]
    total = sum(weight for *_, weight in tensors)

    def loss() -> Any:
        optimiser.zero_grad()
        value = RIDGE * (weights**2).sum()
        for x, right, weight in tensors:
            scores = x @ weights * SHARPNESS
            value = value + (torch.logsumexp(scores, 0) - torch.logsumexp(scores[right], 0)) * weight / total / 2
        value.backward()
        return value

    optimiser.step(loss)
    return [round(one, 2) for one in weights.tolist()]


async def main_of(data: Path, work: Path) -> None:
    for name, used in (("kb_en", [0, 1, 2, 3]), ("faq_zh", [0, 2]), ("faq_zh", [0, 1, 2, 3])):
        home = work / f"{name}-{len(used)}"
        knowledge = Knowledge(home)
        await knowledge.read(prepare_articles(data, name, home / "articles"))
        questions = [one for one in read_rows(data / name / "questions.jsonl") if is_development(one)]
        print(name, dict(zip([("passage", "beginning", "words", "phrases")[one] for one in used],
                             fit(await rows_of(knowledge, questions), used), strict=True)), flush=True)  # fmt: skip
        await knowledge.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with kb_en and faq_zh")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        asyncio.run(main_of(arguments.data, Path(work)))


if __name__ == "__main__":
    main()
