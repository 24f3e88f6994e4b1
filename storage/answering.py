"""What decides how a message is answered, as it is now: asked for every message, and so in one small look.

Knows: the threshold of the articles, and the versions of what processes keep in memory. Does not know: what is done
with any of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from storage.knowledge_schema import curated_answer, intent_set, knowledge_threshold
from storage.transaction import Transaction, scoped


@dataclass(frozen=True, slots=True)
class AnsweringRules:
    """`threshold` is None where the default holds; versions are 0 where there is nothing, and never come back."""

    threshold: float | None
    intents_version: int
    curated_version: int


_THRESHOLD = scoped(sa.select(knowledge_threshold.c.value))
# Its number begins again at 1 after all was forgotten; a moment does not come again.
_INTENTS = scoped(sa.select(intent_set.c.trained_at))
# The newest would not do: two changes at once may get the same number. The sum is another one after each of them.
_CURATED = scoped(sa.select(sa.func.sum(curated_answer.c.version)))


def rules(tx: Transaction) -> AnsweringRules:
    """What holds now."""
    threshold, intents, curated = (tx.execute(one).scalar() for one in (_THRESHOLD, _INTENTS, _CURATED))
    return AnsweringRules(threshold, intents or 0, int(curated or 0))
