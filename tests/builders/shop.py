"""People who ask a shop with articles: two for everybody and one for staff."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from adapters.cli.wiring import Agent
from storage.values import Accepted, Incoming, Sender, text_part
from tests.builders.agents import ended_reply

RETURNS = (
    "# Returns\n\nYou can send anything back within 30 days of delivery.\n\n"
    "## Refunds\n\nThe refund arrives after five business days.\n"
)
SHIPPING = "# Shipping\n\nParcels to Germany travel for two days. To Norway postage costs 9 euros.\n"
SALARIES = "# Salaries\n\nSalaries are paid on the first of a month, and bonuses in December.\n"
CONTACT = "help@shop.example"
W = "default"

StartShop = Callable[..., AbstractAsyncContextManager[Agent]]


class Person:
    """A person on a channel, in one conversation."""

    def __init__(self, agent: Agent, channel: str = "web") -> None:
        self.agent, self.channel, self.count = agent, channel, 0

    async def ask(self, text: str) -> tuple[str, list[str]]:
        """Ask, and return the reply with the titles of its citations."""
        self.count += 1
        key = f"{self.channel}:{self.count}"
        incoming = Incoming(self.channel, "c", Sender("v"), key, (text_part(text),), f"m{self.count}")
        return await followed(self.agent, await self.agent.conversations.accept(W, incoming))

    async def history(self) -> list[Any]:
        known = await self.agent.conversations.history.find(W, self.channel, "c")
        return await self.agent.conversations.history.messages(W, known.id)


async def followed(agent: Agent, accepted: Accepted) -> tuple[str, list[str]]:
    """Return `(text, titles of its sources)` of the reply, once it has ended."""
    text, end = await ended_reply(agent, accepted)
    return text, [source["title"] for source in end.sources]


INTENTS_CSV = """text,intent,reply
Where is my order?,order status,
Track my parcel,order status,
When will my package arrive,order status,
Has my order shipped yet,order status,
I want my money back,refund,
How do I get a refund,refund,
Please refund my purchase,refund,
My refund has not arrived,refund,
I want to talk to a human,human,"Our team answers at +49 30 1234, Monday to Friday."
Let me speak with an agent,human,
Connect me to a person please,human,
Can a real person help me,human,
"""
