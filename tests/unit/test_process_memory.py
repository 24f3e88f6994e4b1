"""Garbage collection: exempt objects, and how they are freed after all."""

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


def test_loaded_objects_are_exempt_until_collect_all() -> None:
    circle = Circle()
    known = weakref.ref(circle)
    keep_what_is_loaded()
    assert gc.get_freeze_count() > 0
    del circle
    gc.collect()
    assert known() is not None, "exempt, like a serving model"
    collect_all()
    assert known() is None
    assert gc.get_freeze_count() == 0


def test_later_cycles_are_still_collected() -> None:
    keep_what_is_loaded()
    circle = Circle()
    known = weakref.ref(circle)
    del circle
    gc.collect()
    assert known() is None
