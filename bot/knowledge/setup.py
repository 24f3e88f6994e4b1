"""Grounding from the settings, alike for chats, training and judging."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from bot.knowledge.grounding import Grounding
from bot.knowledge.search.search import make_search
from bot.settings import Settings
from storage.knowledge_values import Audience
from storage.scope import Scope

log = logging.getLogger("myna.knowledge")

# A CPU reads the smaller number in about 0.1 s; a GPU reads all words at once.
SLOW_MODEL_WORDS, FAST_MODEL_WORDS = 50, 300


def make_grounding(settings: Settings, scope: Scope) -> Grounding:
    """Return the look-up of a workspace. The embedder is loaded at the first question, if there are articles."""
    search = make_search(scope, settings.embedder, settings.data, log.info)
    return Grounding(scope, search, audiences_by_channel(settings), words_of_articles(settings))


@contextlib.asynccontextmanager
async def open_grounding(settings: Settings, scope: Scope) -> AsyncIterator[Grounding]:
    """Yield the result of `make_grounding` and close it at the end."""
    grounding = make_grounding(settings, scope)
    try:
        yield grounding
    finally:
        await grounding.close()


def words_of_articles(settings: Settings) -> int:
    """Return the number of words of articles that the model reads for a reply."""
    if settings.article_words:
        return settings.article_words
    if settings.generator == "remote":
        return FAST_MODEL_WORDS
    import torch

    has_gpu = settings.device != "cpu" and torch.cuda.is_available()
    return FAST_MODEL_WORDS if has_gpu else SLOW_MODEL_WORDS


def audiences_by_channel(settings: Settings) -> dict[str, Audience]:
    """Return the audience of each channel. Users of the console have a shell, and so access to every article."""
    return {
        "web": settings.web_audience,
        "slack": settings.slack_audience,
        "api": settings.api_audience,
        "console": "staff",
    }
