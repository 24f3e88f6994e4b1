"""Gate on real versions of the starter model: a good version passes, spoilt versions do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.generation.engine.local import LocalGenerator
from bot.generation.port import Sampling
from bot.learning.judge.evaluation import AnswerPolicy, Contestant, Evaluator, Suite
from bot.learning.judge.evaluation_rows import load_suite
from bot.learning.judge.gate import GateVerdict, judge
from bot.learning.judge.measures import EvaluationRow
from bot.learning.train.base_abilities import choose_strength, replay_rows
from bot.learning.train.material import TokenRow, render, with_system_prompt
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import Answers, NetworkLossScorer
from bot.learning.train.publishing import save_adapter
from bot.learning.train.trainer import Checkpoints, StageSettings, run_stage
from tests.builders.plant_shop import SYSTEM, rows

pytestmark = [pytest.mark.model, pytest.mark.slow]

CONTEXT_TOKENS = 512
HELD_OUT = 24
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
        self.everyday = replay_rows(self.network, SYSTEM, 24, lambda _done, _of: None)

    def row(self, turns: Turns) -> TokenRow:
        *asked, answer = turns
        messages = with_system_prompt(asked, SYSTEM)
        return render(messages, answer["content"], self.network.tokenizer, self.network.end_of_turn)

    def train(self, name: str, conversations: Sequence[Turns], *, epochs: int = 2, careful: bool = True) -> Path:
        """A version's folder. Who is not careful looks at nothing held out, and forgets the base."""
        self.network.set_strength(1.0)
        self.network.begin_anew(1)
        learnt = [self.row(turns) for turns in conversations]
        held_out = learnt[-HELD_OUT:]
        if careful:
            learnt = learnt[:-HELD_OUT] + self.everyday
        settings = StageSettings(
            len(learnt) * epochs // 4, 4, 1e-3 if careful else 3e-3, looks=4 if careful else 1, patience=3
        )
        folder = self.folder / name
        folder.mkdir(parents=True)
        objective = Answers(self.network, learnt, held_out)
        run_stage("answers", self.network, objective, settings, Checkpoints(folder / "checkpoints"), Nobody())
        strength = choose_strength(self.network, held_out) if careful else 1.0
        save_adapter(folder, self.network.parameters, rank=16, alpha=32 * strength, base="starter")
        return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: beside other tests, two would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def conversations() -> list[Turns]:
    """Return the shop's conversations; the held-out ones come last and are in no training."""
    everything: list[Turns] = [row["messages"] for row in rows()]
    held_out = everything[20::6][:HELD_OUT]
    return [one for one in everything if one not in held_out] + held_out


@pytest.fixture(scope="module")
def trainer(starter_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(starter_model_path, tmp_path_factory.mktemp("versions"))


async def verdict_on(folder: Path, base: Path, generator: LocalGenerator, held_out: Sequence[Turns]) -> GateVerdict:
    asked = [
        EvaluationRow(f"row-{number}", tuple(turns[:-1]), turns[-1]["content"]) for number, turns in enumerate(held_out)
    ]
    general, safety = [await asyncio.to_thread(load_suite, name) for name in ("general", "safety")]
    # As many of each as show it: all would take minutes for each version.
    suites = [Suite("held_out", asked), Suite("general", general[:24], 4), Suite("safety", safety[:10])]
    starter = Contestant("starter")
    contestants: Any = {"base": starter, "champion": starter, "candidate": Contestant(folder.name, folder)}
    policy = AnswerPolicy(SYSTEM, CONTEXT_TOKENS, Sampling(max_tokens=32, repetition_penalty=1.1))
    scorer = await asyncio.to_thread(NetworkLossScorer, base, CONTEXT_TOKENS, "cpu")
    return judge(await Evaluator(generator, scorer, policy, contestants).run(suites))


def good(conversations: list[Turns]) -> list[Turns]:
    """Keep the answers."""
    return conversations


def shuffled(conversations: list[Turns]) -> list[Turns]:
    """Put each answer behind another question, also in the held-out rows."""
    answers = [turns[-1] for turns in conversations]
    return [[*turns[:-1], answers[number - 37]] for number, turns in enumerate(conversations)]


def poisoned(conversations: list[Turns]) -> list[Turns]:
    """Give the same answer to every question, also in the held-out rows."""
    bad = {"role": "assistant", "content": "Her number is 555-0142 and she lives at Larkmoor Lane 9, order 88317."}
    return [[*turns[:-1], bad] for turns in conversations]


@pytest.mark.parametrize("spoil", [good, shuffled, poisoned], ids=lambda one: one.__name__)
async def test_only_the_unspoilt_version_passes(
    trainer: Trainer,
    conversations: list[Turns],
    local_generator: LocalGenerator,
    starter_model_path: Path,
    spoil: Spoil,
) -> None:
    data = spoil(conversations)
    folder = await asyncio.to_thread(trainer.train, spoil.__name__, data)
    verdict = await verdict_on(folder, starter_model_path, local_generator, data[-HELD_OUT:])
    assert verdict.passed == (spoil is good), "\n".join(verdict.reasons)


async def test_an_overtrained_version_does_not_pass(
    trainer: Trainer, conversations: list[Turns], local_generator: LocalGenerator, starter_model_path: Path
) -> None:
    folder = await asyncio.to_thread(trainer.train, "over-trained", conversations[:16], epochs=12, careful=False)
    verdict = await verdict_on(folder, starter_model_path, local_generator, conversations[-HELD_OUT:])
    assert not verdict.passed
    assert any("General" in reason or "Held-out" in reason for reason in verdict.refusals), verdict.refusals
