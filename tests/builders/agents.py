"""A running agent with a scripted model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from adapters.cli.wiring import Agent
from tests.fakes.generator import FakeGenerator

StartAgent = Callable[..., AbstractAsyncContextManager[Agent]]


def model_of(agent: Agent) -> FakeGenerator:
    assert isinstance(agent.generator, FakeGenerator)
    return agent.generator
