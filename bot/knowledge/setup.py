"""The look-up as an installation has set it: the same for chats, for training and for judging.

Knows: which settings it depends on. Does not know: how anything is found.
"""

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

# What a CPU reads in about 0.1 s; a GPU reads it all at once.
SLOW_MODEL_WORDS, FAST_MODEL_WORDS = 50, 300


def make_grounding(settings: Settings, scope: Scope) -> Grounding:
    """A look-up in the articles of a workspace. It loads the embedder once there are articles and somebody asks."""
    search = make_search(scope, settings.embedder, settings.data, log.info)
    return Grounding(scope, search, audiences_by_channel(settings), words_of_articles(settings))


@contextlib.asynccontextmanager
async def open_grounding(settings: Settings, scope: Scope) -> AsyncIterator[Grounding]:
    """As `make_grounding`, closed at the end."""
    grounding = make_grounding(settings, scope)
    try:
        yield grounding
    finally:
        await grounding.close()


def words_of_articles(settings: Settings) -> int:
    """How much of the articles the model reads for a reply."""
    if settings.article_words:
        return settings.article_words
    if settings.generator == "remote":
        return FAST_MODEL_WORDS
    import torch

    has_gpu = settings.device != "cpu" and torch.cuda.is_available()
    return FAST_MODEL_WORDS if has_gpu else SLOW_MODEL_WORDS


def audiences_by_channel(settings: Settings) -> dict[str, Audience]:
    """Whose articles each channel answers from. Whoever has a shell here could read them all anyhow."""
    return {
        "web": settings.web_audience,
        "slack": settings.slack_audience,
        "api": settings.api_audience,
        "console": "staff",
    }
