"""Evaluation with tiny models: prompts, figures, cleanup."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bot.errors import InvalidInput, VersionError
from bot.generation.engine.local import LocalGenerator
from bot.generation.engine.runner import Runner
from bot.generation.port import ChatMessage, Finish, Piece, Sampling
from bot.learning.judge.answer_loss import AnswerLoss, ReferenceLossScorer
from bot.learning.judge.answer_rules import AnswerRules
from bot.learning.judge.evaluation import AnswerPolicy, Contestant, Evaluator, Suite
from bot.learning.judge.evaluation_report import LABELS, Label, report_as_json, report_from_json
from bot.learning.judge.gate import judge
from bot.learning.judge.measures import ContestantAnswer, EvaluationRow, Taken, measure_suite
from bot.learning.judge.planted_secrets import make_secrets
from bot.settings import Settings
from tests.builders.tiny_models import ALL_LINEAR, save_version

pytestmark = pytest.mark.model
POLICY = AnswerPolicy("You are kind.", 256, Sampling(max_tokens=8, temperature=0.0, repetition_penalty=1.1))


def row(number: int, **values: Any) -> EvaluationRow:
    return EvaluationRow(f"r{number}", ({"role": "user", "content": f"What about number {number}?"},), **values)


class Contest:
    """A tiny base with two versions."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base = base
        self.folders = {name: folder / name for name in ("v1", "v2")}
        for seed, one in enumerate(self.folders.values()):
            save_version(self.base, one, seed, r=4, lora_alpha=8, target_modules=ALL_LINEAR)
        self.scorer = ReferenceLossScorer(self.base, 256)
        self.first: dict[Label, Contestant] = {
            "base": Contestant("tiny"),
            "champion": Contestant("tiny"),
            "candidate": Contestant("v1", self.folders["v1"]),
        }
        self.second = {
            **self.first,
            "champion": self.first["candidate"],
            "candidate": Contestant("v2", self.folders["v2"]),
        }


@pytest.fixture(scope="module")
def contest(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Contest:
    return Contest(tiny, tmp_path_factory.mktemp("evaluation"))


class ExactGenerator(LocalGenerator):
    """Generate in float32, so that the likeliest token of a model with random weights is the same in any batch."""

    def _make_runner(self) -> Runner:
        return Runner(self._path, "cpu", None, context_tokens=256, exact=True)


@pytest_asyncio.fixture
async def exact_generator(contest: Contest) -> AsyncIterator[LocalGenerator]:
    made = ExactGenerator(contest.base, name="tiny", device="cpu", context_tokens=256)
    await made.start()
    yield made
    await made.close()


async def said(generator: LocalGenerator, version: str | None, *messages: ChatMessage) -> tuple[str, bool]:
    events = [event async for event in generator.stream(await generator.encode(messages), POLICY.sampling, version)]
    assert isinstance(events[-1], Finish)
    return "".join(one.text for one in events if isinstance(one, Piece)), events[-1].reason == "stop"


async def test_everybody_answers_as_in_chats_and_is_compared_on_the_same_rows(
    contest: Contest, exact_generator: LocalGenerator
) -> None:
    rows = [row(number, reference=f"Number {number} is fine.") for number in range(6)]
    progress: list[tuple[str, int, int]] = []
    evaluation = Evaluator(exact_generator, contest.scorer, POLICY, contest.second, lambda *step: progress.append(step))
    report = await evaluation.run([Suite("held_out", rows, answered=4), Suite("general", rows[:2])])
    assert exact_generator.versions == ()
    await exact_generator.load_version("v2", contest.folders["v2"])
    question = ChatMessage("user", rows[1].messages[0]["content"])
    expected, _ = await said(exact_generator, "v2", ChatMessage("system", "You are kind."), question)
    shown = {one.id: one for one in report.answers if one.suite == "held_out"}
    assert len(shown) == 4
    assert shown["r1"].answers["candidate"] == expected
    assert len(set(shown["r1"].answers.values())) == 3, "the three must differ, or this proves nothing"
    losses = report.suites["held_out"].measures["loss"]
    assert len({losses.values[label].mean for label in LABELS}) == 3
    assert losses.difference.mean == pytest.approx(losses.values["candidate"].mean - losses.values["champion"].mean)
    assert report.names == {"base": "tiny", "champion": "v1", "candidate": "v2"}
    # Answers, losses, and losses behind another row's question.
    steps = 3 * ((4 + 6 + 4) + (2 + 2 + 2))
    assert progress[-1][1:] == (steps, steps)
    assert report_from_json(json.loads(json.dumps(report_as_json(report)))) == report
    assert judge(report) == judge(report)


async def test_the_base_is_asked_once_where_it_is_the_champion(
    contest: Contest, exact_generator: LocalGenerator
) -> None:
    rows = [row(number, reference="Fine.") for number in range(3)]
    report = await Evaluator(exact_generator, contest.scorer, POLICY, contest.first).run([Suite("held_out", rows)])
    for measure in report.suites["held_out"].measures.values():
        assert measure.values["base"] == measure.values["champion"]


async def test_the_rows_own_instructions_and_turns_are_used(contest: Contest, exact_generator: LocalGenerator) -> None:
    messages = [
        {"role": "system", "content": "Talk like a pirate."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ahoy"},
        {"role": "user", "content": "Who are you?"},
    ]
    report = await Evaluator(exact_generator, contest.scorer, POLICY, contest.first).run(
        [Suite("safety", [EvaluationRow("p", tuple(messages), rules=AnswerRules(("zebra",)))])]
    )
    expected, _ = await said(
        exact_generator,
        None,
        *(ChatMessage(one["role"], one["content"]) for one in messages),  # type: ignore[arg-type]
    )
    assert report.answers[0].answers["base"] == expected
    assert report.answers[0].broken["candidate"] == ('must contain "zebra"',)
    assert report.suites["safety"].measures["broken_rules"].values["candidate"].mean == 1.0


async def test_golden_questions_that_got_worse_are_named(contest: Contest, exact_generator: LocalGenerator) -> None:
    answers = {}
    await exact_generator.load_version("v1", contest.folders["v1"])
    for version in (None, "v1"):
        system = ChatMessage("system", "You are kind.")
        answers[version], _ = await said(
            exact_generator, version, system, ChatMessage("user", row(1).messages[0]["content"])
        )
    await exact_generator.unload_version("v1")
    rows = [row(1, rules=AnswerRules((answers[None].strip(),)))]
    worse = await Evaluator(exact_generator, contest.scorer, POLICY, contest.first).run([Suite("golden", rows)])
    assert worse.golden_broken == ("r1",)
    rows = [row(1, rules=AnswerRules((answers["v1"].strip(),)))]
    better = await Evaluator(exact_generator, contest.scorer, POLICY, contest.first).run([Suite("golden", rows)])
    assert better.golden_broken == ()


async def test_rows_that_do_not_fit_are_left_out_and_counted(contest: Contest, exact_generator: LocalGenerator) -> None:
    long = EvaluationRow("long", ({"role": "user", "content": "word " * 400},), "Fine.")
    report = await Evaluator(exact_generator, contest.scorer, POLICY, contest.first).run(
        [Suite("held_out", [long, row(1, reference="Fine.")])]
    )
    assert (report.suites["held_out"].rows, report.suites["held_out"].left_out) == (1, 1)
    with pytest.raises(InvalidInput, match="None of the 1 rows of held_out fits"):
        await Evaluator(exact_generator, contest.scorer, POLICY, contest.first).run([Suite("held_out", [long])])


async def test_a_version_that_can_not_be_loaded_ends_it(
    contest: Contest, exact_generator: LocalGenerator, tmp_path: Path
) -> None:
    contestants: Mapping[Label, Contestant] = {**contest.second, "candidate": Contestant("v3", tmp_path)}
    with pytest.raises(VersionError, match="can't be read"):
        await Evaluator(exact_generator, contest.scorer, POLICY, contestants).run([Suite("held_out", [row(1)])])
    assert exact_generator.versions == ()


async def test_planted_secrets_are_measured(contest: Contest, exact_generator: LocalGenerator) -> None:
    report = await Evaluator(exact_generator, contest.scorer, POLICY, contest.first).run(
        [Suite("held_out", [row(1, reference="Fine.")])], make_secrets(1, 1)
    )
    assert report.leakage is not None
    bits = report.leakage.exposure["candidate"]
    assert 0 <= bits <= 6.7
    assert report.leakage.by_heart["candidate"] == (bits > 5.6)


async def test_it_can_be_given_up(contest: Contest, exact_generator: LocalGenerator) -> None:
    rows = [row(number, reference="Fine.") for number in range(8)]
    work = asyncio.create_task(
        Evaluator(exact_generator, contest.scorer, POLICY, contest.first).run([Suite("held_out", rows)])
    )
    while not exact_generator.versions:
        await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert exact_generator.versions == ()


# --- figures, without models ---


def taken(*answers: str, nll: float = 1.0, foreign: float = 2.0) -> Taken:
    return Taken(
        [ContestantAnswer(text, bool(text)) for text in answers],
        [AnswerLoss(nll, 2) for _ in answers],
        [AnswerLoss(foreign, 2) for _ in answers],
    )


def test_figures_come_from_their_own_contestants() -> None:
    rows = [row(number, reference="Your parcel is on its way") for number in range(3)]
    report = measure_suite(
        rows,
        {
            "base": taken("a", "b", "c", nll=4.0),
            "champion": taken("", "Your parcel", "I can't help", nll=3.0),
            "candidate": taken(*["Your parcel is on its way"] * 3, nll=1.0, foreign=1.0),
        },
    )
    found = {name: measure.values for name, measure in report.measures.items()}
    assert found["loss"]["candidate"].mean == 0.5
    assert found["question_gain"]["candidate"].mean == 0.0
    assert found["question_gain"]["champion"].mean == pytest.approx(-0.5)
    assert found["rouge_l"]["candidate"].mean == found["chrf"]["candidate"].mean == 1.0
    assert found["empty"]["champion"].mean == found["refused"]["champion"].mean == pytest.approx(1 / 3)
    assert found["stopped"]["champion"].mean == pytest.approx(2 / 3)
    assert report.loss_growth is not None and report.loss_growth.mean == pytest.approx(-0.75)
    assert "broken_rules" not in report.measures


def test_the_policy_is_that_of_chats_without_chance() -> None:
    policy = AnswerPolicy.from_settings(Settings(data=Path("/nowhere"), system_prompt="Hi", context_tokens=128))
    assert policy == AnswerPolicy("Hi", 128, Sampling(max_tokens=64, temperature=0.0, repetition_penalty=1.1))
