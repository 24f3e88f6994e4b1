"""Training material: training and validation sets from examples of all kinds."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from bot.generation.engine.chat_tokenizer import ChatTokenizer
from bot.learning.train.material import MIN_WATCHED, MOST_WATCHED, Material, left_out_stages, prepare, why_too_little
from storage.learning_values import Example, ExampleKind

pytestmark = [pytest.mark.model]
END = 2


@pytest.fixture(scope="module")
def tokenizer(starter_model_path: Path) -> ChatTokenizer:
    return ChatTokenizer(starter_model_path)


def examples(kind: ExampleKind, count: int, *, split: str = "train", good_share: float = 0.5) -> list[Example]:
    """Make examples, each in a conversation of its own."""
    return [
        Example(
            kind,
            "import",
            split,
            f"{split} {kind} {number}",
            f"m{number}",
            None,  # type: ignore[arg-type]
            ({"role": "user", "content": f"Where is {number}?"},),
            f"At gate {number}.",
            "No idea." if kind == "pair" else None,
            number < good_share * count if kind == "thumb" else None,
        )
        for number in range(count)
    ]


def prepared(tokenizer: ChatTokenizer, *found: list[Example]) -> Material:
    return prepare([one for some in found for one in some], "Be kind.", tokenizer, END, 64)


def test_every_kind_has_a_validation_set(tokenizer: ChatTokenizer) -> None:
    found = prepared(tokenizer, examples("answer", 60), examples("pair", 150), examples("thumb", 2000))
    assert len(found.watched.answers) == MIN_WATCHED
    assert len(found.watched.pairs) == 15
    assert len(found.watched.thumbs) == MOST_WATCHED
    assert found.has_pairs and found.has_thumbs
    assert (len(found.train.answers), found.num_answers) == (60 - MIN_WATCHED, 60)


def test_validation_does_not_depend_on_order_or_overlap(tokenizer: ChatTokenizer) -> None:
    learnt = examples("answer", 100)
    found = prepared(tokenizer, learnt)
    random.Random(3).shuffle(learnt)
    again = prepared(tokenizer, learnt)
    assert {row.token_ids for row in again.watched.answers} == {row.token_ids for row in found.watched.answers}
    assert not {row.name for row in found.watched.answers} & {row.name for row in found.train.answers}


def test_examples_that_are_too_long_do_not_count(tokenizer: ChatTokenizer) -> None:
    long = [
        Example(
            "answer", "import", "train", f"c{number}", "m", None, ({"role": "user", "content": "a b " * 99},), "Yes."
        )
        for number in range(50)
    ]
    held_out = examples("answer", 20, split="held_out")
    found = prepared(tokenizer, long, examples("answer", 30), held_out)
    assert (found.num_answers, found.num_too_long) == (30, 50)
    assert "There are 30 answers" in (why_too_little(found) or "")
    assert why_too_little(prepared(tokenizer, examples("answer", 60), held_out)) is None
    few = prepared(tokenizer, examples("answer", 60), held_out[:9])
    assert "Only 9 conversations are held out, and 10 are needed" in (why_too_little(few) or "")


@pytest.mark.parametrize(
    ("pairs", "thumbs", "good_share", "said"),
    [
        (99, 0, 0.5, ["Pairs were not learnt from: there are 89, and 100 are needed."]),
        (0, 400, 0.99, ["Thumbs were not learnt from: 3\\d\\d are up and \\d down, and 30 of each are needed."]),
        (0, 100, 0.5, ["Thumbs were not learnt from: there are 90, and 150 are needed."]),
        (200, 400, 0.5, []),
        (0, 0, 0.5, []),
    ],
)
def test_skipped_stages_are_named_with_their_reason(
    tokenizer: ChatTokenizer, pairs: int, thumbs: int, good_share: float, said: list[str]
) -> None:
    found = prepared(tokenizer, examples("pair", pairs), examples("thumb", thumbs, good_share=good_share))
    told = left_out_stages(found)
    assert len(told) == len(said)
    assert all(re.fullmatch(pattern, one) for pattern, one in zip(said, told, strict=True)), told
