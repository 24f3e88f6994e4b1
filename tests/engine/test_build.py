"""The engine that judges versions is the engine that serves them, whatever the settings say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.cli.wiring import make_generator
from bot.errors import ModelError
from bot.generation.engine.local import LocalGenerator
from bot.learning.judge.answer_loss import ReferenceLossScorer
from bot.learning.judge.judging import JudgingPlan, carry_out
from bot.settings import Settings


def options(generator: LocalGenerator) -> dict[str, object]:
    """All that a generator was built with, but for the length of its queue: judging asks much at once."""
    plain = {name: value for name, value in vars(generator).items() if isinstance(value, str | int | Path | None)}
    del plain["_queue_limit"]
    return plain


@pytest.mark.parametrize("compiles", ["on", "off"])
async def test_versions_are_judged_by_the_engine_that_serves(
    starter_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiles: str
) -> None:
    settings = Settings(
        model=str(starter_model_path),
        data=tmp_path,
        device="cpu",
        context_tokens=333,
        threads=1,
        cache_mb=77,
        compile="on" if compiles == "on" else "off",
    )
    serves = await asyncio.to_thread(make_generator, settings, lambda _: None)
    assert isinstance(serves, LocalGenerator)
    judges: list[LocalGenerator] = []

    async def start(self: LocalGenerator) -> None:
        judges.append(self)
        raise ModelError("enough was seen")

    monkeypatch.setattr(LocalGenerator, "start", start)
    with pytest.raises(ModelError, match="enough was seen"):
        await carry_out(settings, JudgingPlan(None, False, {}, (), (), 0), make_scorer=ReferenceLossScorer)
    assert options(judges[0]) == options(serves)
    assert options(serves)["_compiles"] is (compiles == "on")
