"""Fit of the ranking weights in `bot/knowledge/search/ranking.py`, on the development half of the questions.

    python -m benchmarks.knowledge_weights DATA

Prints weights for `kb_en` (English) and `faq_zh` (Chinese). What is maximised is the likelihood that a passage of a
right article comes first among the candidates. Kinds of questions count alike, but `link_description`, where editors
say in other words what is on a page, three times: it is the hardest and the nearest to how customers ask.

For English, also how well articles are found where each half of the questions is judged by weights fitted on the other
one, so that all questions count and none chose the weights it is judged by.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adapters.cli.article_commands import share
from benchmarks.knowledge_installation import Knowledge, read_rows
from benchmarks.knowledge_search import is_development, prepare_articles
from bot.knowledge.search.ranking import Weights, ask, features
from storage import knowledge_search
from storage.schema import DEFAULT_WORKSPACE

KIND_WEIGHTS = {"link_description": 3.0}
# How sharp the likelihood is; with the ridge it only sets the scale of the weights.
SHARPNESS, RIDGE = 20.0, 1e-3
NAMES = [one.name for one in fields(Weights)]


@dataclass(frozen=True, slots=True)
class Row:
    """The candidates of a question: their features `(candidates, 4)`, and a mark for passages of a right article."""

    kind: str
    is_development: bool
    features: npt.NDArray[np.float64]
    articles: list[str]
    is_right: npt.NDArray[np.bool_]

    def place(self, weights: list[float]) -> int | None:
        """Return the rank of the first right article, from 0 on; None if none of its passages is a candidate."""
        scores = (self.features @ np.array(weights)).round(6)
        order = sorted(range(len(scores)), key=lambda n: (-scores[n], self.articles[n]))
        ranked = list(dict.fromkeys(self.articles[n] for n in order))
        right = {self.articles[n] for n in np.flatnonzero(self.is_right)}
        return next((place for place, article in enumerate(ranked) if article in right), None)


async def rows_of(knowledge: Knowledge, questions: list[dict[str, Any]]) -> list[Row]:
    await knowledge.search.warm()
    index, table = await knowledge.database.read(knowledge_search.load_index, DEFAULT_WORKSPACE, True)
    assert index is not None
    rows = []
    for one in questions:
        vector = knowledge.embedder.embed([one["question"]])[0]
        asked = ask(one["question"], vector, index)
        found = await knowledge.database.read(
            knowledge_search.candidates, DEFAULT_WORKSPACE, asked.words, vector, ["public"], index, table
        )
        assert found is not None
        names = [passage.name for passage in found.passages]
        right = np.array([name in one["gold"] for name in names])
        rows.append(Row(one.get("type", "all"), is_development(one), features(asked, found), names, right))
    return rows


def fit(rows: list[Row], used: list[int]) -> list[float]:
    counts = Counter(row.kind for row in rows)
    tensors = [
        (
            torch.tensor(row.features[:, used], dtype=torch.float32),
            torch.tensor(row.is_right),
            KIND_WEIGHTS.get(row.kind, 1.0) / counts[row.kind],
        )
        for row in rows
        if row.is_right.any() and not row.is_right.all()
    ]
    weights = torch.full((len(used),), 0.3, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100)
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


def report_crossed(rows: list[Row]) -> None:
    """Print the recall of each half of the questions under the weights fitted on the other half."""
    places = defaultdict(list)
    for half in (True, False):
        weights = fit([row for row in rows if row.is_development is not half], list(range(len(NAMES))))
        for row in rows:
            if row.is_development is half:
                places[row.kind].append(row.place(weights))
    for kind, found in sorted(places.items()):
        print(f"{kind:18} each half by the other's weights {share(found, 1):.3f} / {share(found, 5):.3f}", flush=True)


async def main_of(data: Path, work: Path) -> None:
    for name, choices in (("kb_en", [[0, 1, 2, 3]]), ("faq_zh", [[0, 2], [0, 1, 2, 3]])):
        knowledge = Knowledge(work / name)
        await knowledge.read(prepare_articles(data, name, work / f"articles-{name}"))
        rows = await rows_of(knowledge, read_rows(data / name / "questions.jsonl"))
        for used in choices:
            weights = fit([row for row in rows if row.is_development], used)
            print(name, dict(zip([NAMES[one] for one in used], weights, strict=True)), flush=True)
        if name == "kb_en":
            report_crossed(rows)
        await knowledge.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with kb_en and faq_zh")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        asyncio.run(main_of(arguments.data, Path(work)))


if __name__ == "__main__":
    main()
