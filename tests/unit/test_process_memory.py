"""What the collector passes over, and how it is freed after all."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from bot.generation.engine.process_memory import collect_all, keep_what_is_loaded


class Circle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thaw() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_was_loaded_is_passed_over_until_all_is_collected() -> None:
    circle = Circle()
    known = weakref.ref(circle)
    keep_what_is_loaded()
    assert gc.get_freeze_count() > 0
    del circle
    gc.collect()
    assert known() is not None, "it stays, as a model that serves does"
    collect_all()
    assert known() is None
    assert gc.get_freeze_count() == 0


def test_circles_made_later_are_still_found() -> None:
    keep_what_is_loaded()
    circle = Circle()
    known = weakref.ref(circle)
    del circle
    gc.collect()
    assert known() is None
