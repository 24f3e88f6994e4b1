"""Build the local generator from the settings: one engine for chats and for judging.

Versions are judged by what later serves them only if both come from here.
"""

from __future__ import annotations

from pathlib import Path

from bot.generation.engine.local import LocalGenerator
from bot.settings import Settings


def local_generator(settings: Settings, folder: Path, *, queue_limit: int) -> LocalGenerator:
    """Make the generator for the model in `folder`, with room for `queue_limit` requests that wait."""
    return LocalGenerator(
        folder,
        name=settings.model,
        device=settings.device,
        context_tokens=settings.context_tokens,
        queue_limit=queue_limit,
        threads=settings.threads or None,
        cache_bytes=settings.cache_mb * 2**20 or None,
        compiles=settings.compile == "on",
    )
