"""The starter model for tests: fetched once per checkout, loaded once per run.

Knows: where the model is kept between runs. Does not know: what is tested with it. The loaded generator serves any
event loop, so tests with a loop of their own can share it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path

import pytest

from bot.generation.engine.local import LocalGenerator
from bot.generation.models.sources import EMBEDDER, STARTER, pull_starter, resolve_embedder
from bot.knowledge.search.embedder import Embedder

CONTEXT_TOKENS = 2048


@pytest.fixture(scope="session")
def starter_model_path() -> Path:
    """The starter model's folder, below `.cache` or `$MYNA_TEST_CACHE`."""
    cache = os.environ.get("MYNA_TEST_CACHE") or Path(__file__).parent.parent / ".cache"
    return pull_starter(Path(cache), print)


@pytest.fixture(scope="session")
def embedder_path() -> Path:
    """The embedder's folder, beside the starter model's."""
    cache = os.environ.get("MYNA_TEST_CACHE") or Path(__file__).parent.parent / ".cache"
    return resolve_embedder(EMBEDDER, Path(cache), print)


@pytest.fixture(scope="session")
def embedder(embedder_path: Path) -> Embedder:
    """The embedder, loaded and shared."""
    return Embedder(embedder_path, name=EMBEDDER)


@pytest.fixture(scope="session")
def local_generator(starter_model_path: Path) -> Iterator[LocalGenerator]:
    """The starter model, loaded and shared. Tests that close it or fill its queue make their own."""
    generator = LocalGenerator(starter_model_path, name=STARTER, context_tokens=CONTEXT_TOKENS)
    run_apart(generator.start())
    yield generator
    run_apart(generator.close())


def run_apart(work: Coroutine[object, object, None]) -> None:
    """Run to the end in a thread, because pytest-asyncio may already have set a loop for this one."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
