"""The `train` job by a real worker, on a real database, with a tiny model.

The model has random weights and learns little: tests of quality are in test_gate_refuses.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.cli.job_kinds import all_tasks
from bot.access.roles import Actor
from bot.generation.engine.lora import CONFIG_FILE, WEIGHTS_FILE
from bot.jobs.contract import Interrupted, JobContext, Services
from bot.jobs.control import Jobs
from bot.jobs.worker import Worker
from bot.learning.data import importing
from bot.learning.judge.answer_loss import AnsweredPrompt, ReferenceLossScorer
from bot.learning.judge.evaluation_rows import load_suite
from bot.learning.train import train_job
from bot.learning.train.material import with_system_prompt
from bot.learning.train.objectives import NetworkLossScorer
from bot.learning.train.recipe import Recipe, trials_of
from bot.learning.versions import CARD_FILE, FACTS_FILE
from bot.settings import Settings
from storage import evaluations, versions
from storage.database import Database
from storage.learning_values import Job
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope

pytestmark = [pytest.mark.model, pytest.mark.slow]

ADMIN = Actor("shell:tests", "admin")


class House:
    """A database with imported conversations, and a worker for its queued jobs."""

    def __init__(self, database: Database, data: Path, model: Path) -> None:
        self.database = database
        self.jobs = Jobs(Scope(database, DEFAULT_WORKSPACE))
        self.settings = Settings(data=data, model=str(model), context_tokens=256, max_reply_tokens=16, device="cpu")

    async def take_in(self, count: int, opinion: Callable[[int], dict[str, Any]] = lambda _: {}) -> None:
        """Conversations about things that are not alike, with what somebody thought of each answer."""
        lines = []
        for number in range(count):
            word = hashlib.sha256(str(number).encode()).hexdigest()
            asked, said = f"What is {word[:6]} {word[6:12]}?", f"It is {word[12:20]} and {word[20:30]} {word[30:36]}."
            answer = {"role": "assistant", "content": said, **opinion(number)}
            turns = [{"role": "user", "content": asked}, answer]
            lines.append(json.dumps({"id": f"row-{number}", "messages": turns}))
        checked = await asyncio.to_thread(importing.check_file, io.BytesIO("\n".join(lines).encode()))
        await importing.take_in(Scope(self.database, DEFAULT_WORKSPACE), ADMIN, "rows.jsonl", checked)

    async def train(self, settings: Mapping[str, Any] | None = None) -> Job:
        return await self.jobs.train(ADMIN, settings or {})

    async def work(self) -> None:
        services = Services(self.settings, self.database, 1)
        await Worker(services, all_tasks(), lease_seconds=30.0).work(once=True)

    async def now(self, job: Job) -> Job:
        return await self.jobs.find(ADMIN, job.id)

    def folder(self, name: str) -> Path:
        return self.settings.data / "versions" / name


@pytest.fixture(autouse=True)
def short_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut each suite to the rows that an evaluation needs: all rows take long and say nothing of a random model."""
    monkeypatch.setattr("bot.learning.judge.judging.load_suite", lambda name: load_suite(name)[:8])
    monkeypatch.setattr("bot.learning.train.train_job.MIN_REPLAY", 8)


@pytest.fixture
async def house(sqlite_url: str, tmp_path: Path, tiny: Path) -> AsyncIterator[House]:
    database = Database(sqlite_url)
    yield House(database, tmp_path, tiny)
    await database.close()


@pytest.fixture
async def house_on_each(database_url: str, tmp_path: Path, tiny: Path) -> AsyncIterator[House]:
    """Return a house on each database; the other tests write the same rows and use one."""
    database = Database(database_url)
    yield House(database, tmp_path, tiny)
    await database.close()


async def test_a_job_ends_with_a_registered_and_judged_version(house_on_each: House) -> None:
    house = house_on_each
    await house.take_in(90)
    job = await house.train()
    await house.work()
    done = await house.now(job)
    assert done.state == "done", done.error
    assert done.result is not None
    name = done.result["version"]
    assert {path.name for path in house.folder(name).iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, FACTS_FILE}
    (version,) = await house.database.read(versions.list_all, DEFAULT_WORKSPACE)
    weights = (house.folder(name) / WEIGHTS_FILE).read_bytes()
    assert (version.name, version.weights_sha256) == (name, hashlib.sha256(weights).hexdigest())
    assert (version.job_id, version.dataset_id, version.created_by) == (job.id, done.result["dataset"], ADMIN.name)
    judged = await house.database.read(evaluations.latest_of_version, DEFAULT_WORKSPACE, version.id)
    assert judged is not None
    assert judged.passed == done.result["passed"]
    assert any("Held-out loss" in reason for reason in judged.reasons)
    series = {point.series for point in await house.jobs.points(ADMIN, job.id)}
    assert series == {"answers.loss", "answers.held_out_loss"}
    assert name in (house.folder(name) / CARD_FILE).read_text(encoding="utf-8")


async def test_too_few_examples_are_refused_with_advice(house: House) -> None:
    await house.take_in(30)
    job = await house.train()
    await house.work()
    done = await house.now(job)
    assert done.state == "refused"
    assert done.error is not None
    assert "needs at least 50" in done.error
    assert "import conversations" in done.error
    assert not await house.database.read(versions.list_all, DEFAULT_WORKSPACE)


def drafted_or_rated(number: int) -> dict[str, Any]:
    """Make conversations: of every three, one has a worse draft, one a thumb up, one a thumb down."""
    return [{"draft": f"I do not know about {number}."}, {"rating": 1}, {"rating": -1}][number % 3]


async def test_enough_pairs_and_thumbs_are_learnt_from(house: House) -> None:
    await house.take_in(420, drafted_or_rated)
    job = await house.train({"learning_rate": 3e-3})
    await house.work()
    done = await house.now(job)
    assert done.state == "done", done.error
    (version,) = await house.database.read(versions.list_all, DEFAULT_WORKSPACE)
    assert version.settings["not_learnt_from"] == []
    assert set(version.settings["stages"]) == {"answers", "pairs", "thumbs"}
    for name, at_first in (("pairs", math.log(2)), ("thumbs", 0.5)):
        stage = version.settings["stages"][name]
        # Beside what the stage before came to; the rarer of the thumbs weighs a little more.
        assert stage["first_held_out_loss"] == pytest.approx(at_first, abs=0.05)
        assert stage["steps"] >= 10


async def test_too_few_pairs_and_thumbs_are_reported(house: House) -> None:
    await house.take_in(240, drafted_or_rated)
    job = await house.train()
    await house.work()
    done = await house.now(job)
    assert done.state == "done", done.error
    assert done.result is not None
    about = "\n".join(done.result["not_learnt_from"])
    assert re.search(r"Pairs were not learnt from: there are \d+, and 100 are needed", about)
    assert re.search(r"Thumbs were not learnt from: there are \d+, and 150 are needed", about)


@pytest.mark.parametrize("phase", ["answers", "evaluation"])
async def test_a_stopped_job_resumes_to_the_same_weights(
    house: House, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    await house.take_in(90)
    first = await house.train({"name": "whole"})
    await house.work()
    stops = stop_once_in(monkeypatch, phase)
    second = await house.train({"name": "parts"})
    await house.work()
    assert stops == [phase], "the worker has taken the job up again after that"
    results = [(await house.now(job)).result for job in (first, second)]
    assert all(results), [(await house.now(job)).error for job in (first, second)]
    made = [version.weights_sha256 for version in await house.database.read(versions.list_all, DEFAULT_WORKSPACE)]
    assert len(made) == 2
    assert made[0] == made[1]


def stop_once_in(monkeypatch: pytest.MonkeyPatch, phase: str) -> list[str]:
    """Stop the worker's task once as a shutdown does, some steps into a phase. Returns a record of the stop."""
    train = train_job.train
    stops: list[str] = []

    def stopped(context: JobContext, services: Services) -> Mapping[str, Any]:
        seen = 0
        progress, check = context.progress, context.check

        def watched_progress(**fields: Any) -> None:
            nonlocal seen
            seen += str(fields.get("phase", "")).startswith(phase)
            progress(**fields)

        def stopping_check() -> None:
            check()
            if seen > 3 and not stops:
                stops.append(phase)
                raise Interrupted

        monkeypatch.setattr(context, "progress", watched_progress, raising=False)
        monkeypatch.setattr(context, "check", stopping_check, raising=False)
        return train(context, services)

    monkeypatch.setattr(train_job, "train", stopped)
    return stops


async def test_a_search_takes_the_best_recipe(house: House) -> None:
    await house.take_in(90)
    job = await house.train({"search": 2})
    await house.work()
    done = await house.now(job)
    assert done.state == "done", done.error
    points = await house.jobs.points(ADMIN, job.id)
    last = {}
    for point in points:
        if point.series.endswith("held_out_loss") and point.series.startswith("trial"):
            last[point.series] = min(point.value, last.get(point.series, float("inf")))
    assert set(last) == {"trial-1.held_out_loss", "trial-2.held_out_loss"}
    (version,) = await house.database.read(versions.list_all, DEFAULT_WORKSPACE)
    assert version.settings["trials"] == pytest.approx([last[f"trial-{number}.held_out_loss"] for number in (1, 2)])
    best = trials_of(Recipe(), 2)[version.settings["trials"].index(min(version.settings["trials"]))]
    assert version.settings["learning_rate"] == best.learning_rate


async def test_a_model_without_end_of_turn_is_refused(house: House, tmp_path: Path, tiny: Path) -> None:
    broken = tmp_path / "endless"
    shutil.copytree(tiny, broken)
    (broken / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    house.settings = replace(house.settings, model=str(broken))
    await house.take_in(90)
    job = await house.train()
    await house.work()
    done = await house.now(job)
    assert done.state == "failed"
    assert done.error is not None
    assert "does not end the assistant's turns" in done.error


def test_answer_losses_match_the_slow_reference(tiny: Path) -> None:
    rows = [
        AnsweredPrompt(tuple(with_system_prompt(row.messages, "Be kind.")), row.reference or "")
        for row in load_suite("general")[:8]
    ]
    many_answers = [replace(rows[0], answer=answer) for answer in ("17", "It is 42.", "", "no " * 200, rows[0].answer)]
    quick, slow = NetworkLossScorer(tiny, 256, "cpu", dtype=torch.float32), ReferenceLossScorer(tiny, 256)
    for asked in (rows, many_answers):
        for one, other in zip(quick.answer_losses(asked, None), slow.answer_losses(asked, None), strict=True):
            assert one.tokens == other.tokens
            assert one.nll == pytest.approx(other.nll, rel=1e-4)
