"""Gate on real versions of the starter model that were trained badly: none passes.

A good version passes in `tests/scenarios/test_learning_story.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.generation.engine.local import LocalGenerator
from bot.generation.port import Event, Prompt, Sampling
from bot.learning.judge.answer_loss import AnsweredPrompt, AnswerLoss
from bot.learning.judge.evaluation import AnswerPolicy, Contestant, Evaluator, Suite
from bot.learning.judge.evaluation_rows import load_suite
from bot.learning.judge.gate import GateVerdict, judge
from bot.learning.judge.measures import EvaluationRow
from bot.learning.train.material import TokenRow, render, with_system_prompt
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import Answers, NetworkLossScorer
from bot.learning.train.publishing import save_adapter
from bot.learning.train.trainer import Checkpoints, StageSettings, run_stage
from tests.builders.plant_shop import rows

pytestmark = [pytest.mark.model, pytest.mark.slow]

SYSTEM = "Birch and Bloom, a plant shop."
CONTEXT_TOKENS = 512
HELD_OUT = 10
# Few steps show each fault: a step takes seconds with one core and no bf16.
STEPS, ROWS_PER_STEP = 8, 2
Turns = Sequence[Mapping[str, str]]
Spoil = Callable[[list[Turns]], list[Turns]]


class Nobody:
    def progress(self, **fields: object) -> None: ...

    def point(self, series: str, step: int, value: float) -> None: ...

    def check(self) -> None: ...

    def flush(self) -> None: ...


class Trainer:
    """Trainer of versions of the starter model on given rows."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.network = LoraNetwork(base, "cpu", rank=16, alpha=32, seed=1)
        self.folder = folder

    def row(self, turns: Turns) -> TokenRow:
        *asked, answer = turns
        messages = with_system_prompt(asked, SYSTEM)
        return render(messages, answer["content"], self.network.tokenizer, self.network.end_of_turn)

    def train(self, name: str, conversations: Sequence[Turns], *, careful: bool = True) -> Path:
        """Return the folder of a version. Careless training has a rate far too high, and forgets the base."""
        self.network.begin_anew(1)
        watched = [self.row(turns) for turns in conversations[-4:]]
        learnt = [self.row(turns) for turns in conversations[:-HELD_OUT]]
        settings = StageSettings(STEPS, ROWS_PER_STEP, 1e-3 if careful else 1e-2, looks=1)
        folder = self.folder / name
        folder.mkdir(parents=True)
        # Careless training also looks at nothing that is held out, so that its last weights count.
        objective = Answers(self.network, learnt, watched if careful else learnt[:1])
        run_stage("answers", self.network, objective, settings, Checkpoints(folder / "checkpoints"), Nobody())
        save_adapter(folder, self.network.parameters, rank=16, alpha=32, base="starter")
        return folder


class RememberedAnswers:
    """A generator that computes each of the base's greedy answers once; versions answer anew."""

    def __init__(self, generator: LocalGenerator) -> None:
        self._generator = generator
        self._known: dict[tuple[str, Sampling], list[Event]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    async def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None, *, priority: int = 0
    ) -> AsyncGenerator[Event, None]:
        events = self._known.get((prompt.sha256, sampling)) if version is None else None
        if events is None:
            events = [event async for event in self._generator.stream(prompt, sampling, version, priority=priority)]
            if version is None:
                self._known[prompt.sha256, sampling] = events
        for event in events:
            yield event


class RememberedLosses:
    """A loss scorer that computes each of the base's losses once; versions are scored anew."""

    def __init__(self, scorer: NetworkLossScorer) -> None:
        self._scorer = scorer
        self._known: dict[str, AnswerLoss] = {}

    def answer_losses(self, rows: Sequence[AnsweredPrompt], folder: Path | None) -> list[AnswerLoss]:
        if folder is not None:
            return self._scorer.answer_losses(rows, folder)
        missing = [row for row in rows if repr(row) not in self._known]
        for row, loss in zip(missing, self._scorer.answer_losses(missing, None) if missing else (), strict=True):
            self._known[repr(row)] = loss
        return [self._known[repr(row)] for row in rows]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: beside other tests, two would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def conversations() -> list[Turns]:
    """Return the shop's small talk and ten of its plants; the held-out rows come last and are in no training."""
    everything: list[Turns] = [row["messages"] for row in rows()[:70]]
    held_out = everything[20::4][:HELD_OUT]
    return [turns for turns in everything if turns not in held_out] + held_out


@pytest.fixture(scope="module")
def trainer(starter_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(starter_model_path, tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def answers(local_generator: LocalGenerator) -> RememberedAnswers:
    return RememberedAnswers(local_generator)


@pytest.fixture(scope="module")
def losses(starter_model_path: Path) -> RememberedLosses:
    return RememberedLosses(NetworkLossScorer(starter_model_path, CONTEXT_TOKENS, "cpu"))


async def verdict_on(
    folder: Path, answers: RememberedAnswers, losses: RememberedLosses, held_out: Sequence[Turns]
) -> GateVerdict:
    asked = [
        EvaluationRow(f"row-{number}", tuple(turns[:-1]), turns[-1]["content"]) for number, turns in enumerate(held_out)
    ]
    general = await asyncio.to_thread(load_suite, "general")
    # As many as show it: all would take minutes for each version.
    suites = [Suite("held_out", asked), Suite("general", general[:8], 2)]
    starter = Contestant("starter")
    contestants: Any = {"base": starter, "champion": starter, "candidate": Contestant(folder.name, folder)}
    policy = AnswerPolicy(SYSTEM, CONTEXT_TOKENS, Sampling(max_tokens=24, repetition_penalty=1.1))
    return judge(await Evaluator(answers, losses, policy, contestants).run(suites))


def shuffled(conversations: list[Turns]) -> list[Turns]:
    """Put each answer behind another question, also in the held-out rows."""
    answers = [turns[-1] for turns in conversations]
    return [[*turns[:-1], answers[number - 37]] for number, turns in enumerate(conversations)]


def poisoned(conversations: list[Turns]) -> list[Turns]:
    """Give the same answer to every question, also in the held-out rows."""
    bad = {"role": "assistant", "content": "Her number is 555-0142 and she lives at Larkmoor Lane 9, order 88317."}
    return [[*turns[:-1], bad] for turns in conversations]


@pytest.mark.parametrize("spoil", [shuffled, poisoned])
async def test_a_version_of_spoilt_rows_does_not_pass(
    trainer: Trainer, conversations: list[Turns], answers: RememberedAnswers, losses: RememberedLosses, spoil: Spoil
) -> None:
    data = spoil(conversations)
    folder = await asyncio.to_thread(trainer.train, spoil.__name__, data)
    verdict = await verdict_on(folder, answers, losses, data[-HELD_OUT:])
    assert any("Its own question" in reason for reason in verdict.refusals), "\n".join(verdict.reasons)
    assert any(reason.startswith("Held-out loss fell") for reason in verdict.reasons), (
        "the loss alone would let it pass"
    )


async def test_an_overtrained_version_does_not_pass(
    trainer: Trainer, conversations: list[Turns], answers: RememberedAnswers, losses: RememberedLosses
) -> None:
    overtrained = conversations[:4] + conversations[-HELD_OUT:]
    folder = await asyncio.to_thread(trainer.train, "over-trained", overtrained, careful=False)
    verdict = await verdict_on(folder, answers, losses, conversations[-HELD_OUT:])
    assert any(reason.startswith("General loss rose") for reason in verdict.refusals), "\n".join(verdict.reasons)
