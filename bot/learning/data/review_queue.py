"""Review queue: staff approve, correct or exclude replies that got complaints."""

from __future__ import annotations

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, NotFound
from storage import reviews
from storage.reviews import NEWEST, Review, Verdict, WaitingReply
from storage.scope import Scope

MAX_BETTER = 16_000


class Reviews:
    """Decisions about replies, for the role agent and above. The newest decision about a reply counts.

    All methods raise `NotAllowed` below that role.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def queue(self, actor: Actor, before: str = NEWEST, most: int = 50) -> list[WaitingReply]:
        """Return a page of waiting replies, newest first; the next page begins before the last reply's `cursor`."""
        actor.check("agent")
        return await self._scope.read(reviews.waiting_page, before, most)

    async def count(self, actor: Actor, most: int) -> int:
        """Count the waiting replies, at most `most`."""
        actor.check("agent")
        return await self._scope.read(reviews.count_waiting, most)

    async def approve(self, actor: Actor, reply_id: str) -> None:
        """Approve a reply. Raises `NotFound`."""
        await self._decide(actor, reply_id, "approve", None)

    async def correct(self, actor: Actor, reply_id: str, better: str = "") -> str:
        """Replace a reply by a better one, by default the newest proposed answer. Returns the better reply.

        Raises `NotFound`, and `InvalidInput` if no better reply is given or proposed.
        """
        actor.check("agent")
        wanted = better.strip()
        if not wanted:
            proposed = await self._scope.read(reviews.proposed_answer, reply_id)
            wanted = (proposed or "").strip()
        if not wanted:
            raise InvalidInput(
                "Nobody has proposed a better answer to this reply; say what it would be.", field="better"
            )
        if len(wanted) > MAX_BETTER:
            raise InvalidInput(f"An answer may have {MAX_BETTER:,} characters at most.", field="better")
        await self._decide(actor, reply_id, "correct", wanted)
        return wanted

    async def exclude(self, actor: Actor, reply_id: str) -> None:
        """Exclude a reply and the votes on it from learning. Raises `NotFound`."""
        await self._decide(actor, reply_id, "exclude", None)

    async def withdraw(self, actor: Actor, reply_id: str) -> None:
        """Withdraw the actor's own decision, so that the reply waits again. Raises `Conflict` if it has none."""
        actor.check("agent")
        if not await self._scope.write(reviews.withdraw, reply_id, actor.name):
            raise Conflict("There is no decision of yours about this reply any more.")

    async def history(self, actor: Actor, reply_id: str) -> list[Review]:
        """Return all decisions about a reply, newest first."""
        actor.check("agent")
        return await self._scope.read(reviews.history, reply_id)

    async def _decide(self, actor: Actor, reply_id: str, decision: Verdict, better: str | None) -> None:
        actor.check("agent")
        done = await self._scope.write(reviews.decide, reply_id, decision, better, actor.name)
        if not done:
            raise NotFound(f"There is no reply {reply_id}.")
