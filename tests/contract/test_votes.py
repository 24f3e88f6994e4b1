"""Votes and consent to learning, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from adapters.cli.wiring import Agent
from bot.chat.feedback import Feedback
from bot.errors import NotAllowed, NotFound, QuotaExceeded
from bot.privacy.learning_consent import Consent
from storage import consent, votes
from storage.conversations import find_person
from storage.database import Database
from storage.scope import Scope
from storage.values import Accepted, Conversation, Incoming, Sender, text_part
from storage.votes import RatedReply, Vote

ANA, BEN = "ana", "ben"


async def talk(agent: Agent, person: str = ANA, key: str = "c", text: str = "Hello") -> tuple[Conversation, RatedReply]:
    """Say something and wait for the reply."""
    incoming = Incoming("web", key, Sender(person), f"{key}/{person}/{text}", (text_part(text),))
    accepted: Accepted = await agent.conversations.accept(agent.workspace_id, incoming)
    async for _ in agent.conversations.follow(agent.workspace_id, accepted):
        pass
    known = await agent.conversations.find(agent.workspace_id, "web", key)
    return known, await agent.feedback.last_reply("web", known.id)


async def history(agent: Agent, known: Conversation, person: str = ANA) -> list[tuple[int, str | None, bool]]:
    found = await agent.feedback.votes_of("web", person, known.id)
    return [(past.value, past.reason, past.replaced_at is None) for past in found]


async def test_the_newest_vote_counts_and_the_others_are_kept(agent: Agent) -> None:
    known, reply = await talk(agent)
    await agent.feedback.vote(reply, "web", Sender(ANA), 1)
    await agent.feedback.vote(reply, "web", Sender(ANA), -1, "rude")
    await agent.feedback.vote(reply, "web", Sender(BEN), 1)
    assert await history(agent, known) == [(1, None, False), (-1, "rude", True)]
    assert await history(agent, known, BEN) == [(1, None, True)]
    assert await agent.feedback.votes_on(reply.id) == [Vote(-1, "rude"), Vote(1)]


async def test_a_repeated_vote_counts_once(agent: Agent) -> None:
    known, reply = await talk(agent)
    for _ in range(3):
        await agent.feedback.vote(reply, "web", Sender(ANA), -1, "rude", "Good morning!")
    assert await history(agent, known) == [(-1, "rude", True)]


async def test_concurrent_equal_votes_count_once(agent: Agent) -> None:
    known, reply = await talk(agent)
    url = agent.database.url.render_as_string(hide_password=False)
    second = Database(url) if agent.database.many_processes else agent.database
    both = [Feedback(Scope(database, agent.workspace_id)) for database in (agent.database, second)] * 10
    await asyncio.gather(*(feedback.vote(reply, "web", Sender(BEN), -1, "rude") for feedback in both))
    if second is not agent.database:
        await second.close()
    assert await history(agent, known, BEN) == [(-1, "rude", True)]


async def test_reason_and_better_answer_may_come_separately(agent: Agent) -> None:
    _, reply = await talk(agent)
    await agent.feedback.vote(reply, "web", Sender(ANA), -1, "rude")
    await agent.feedback.vote(reply, "web", Sender(ANA), -1, None, "Good morning!")
    await agent.feedback.vote(reply, "web", Sender(ANA), -1)
    assert await agent.feedback.votes_on(reply.id) == [Vote(-1, "rude", "Good morning!")]
    await agent.feedback.vote(reply, "web", Sender(ANA), 1)
    assert await agent.feedback.votes_on(reply.id) == [Vote(1)], "what was wrong is not what was good"


async def test_empty_words_remove_earlier_ones(agent: Agent) -> None:
    known, reply = await talk(agent)
    await agent.feedback.vote(reply, "web", Sender(ANA), -1, "rude", "Good morning, Mrs Ward!")
    for _ in range(2):
        await agent.feedback.vote(reply, "web", Sender(ANA), -1, "rude", " ")
    assert await agent.feedback.votes_on(reply.id) == [Vote(-1, "rude")]
    await agent.feedback.vote(reply, "web", Sender(ANA), -1, "", "")
    assert await agent.feedback.votes_on(reply.id) == [Vote(-1)]
    assert await history(agent, known) == [(-1, "rude", False), (-1, "rude", False), (-1, None, True)]


async def test_a_withdrawn_vote_counts_no_longer(agent: Agent) -> None:
    known, reply = await talk(agent)
    for person in (ANA, BEN):
        await agent.feedback.vote(reply, "web", Sender(person), -1, "rude")
    for _ in range(2):
        await agent.feedback.withdraw(reply, "web", ANA)
    assert await agent.feedback.votes_on(reply.id) == [Vote(-1, "rude")]
    assert await history(agent, known) == [(-1, "rude", False)]
    assert await history(agent, known, BEN) == [(-1, "rude", True)]
    await agent.feedback.vote(reply, "web", Sender(ANA), -1)
    assert await agent.feedback.votes_on(reply.id) == [Vote(-1, "rude"), Vote(-1)], "withdrawn words do not come back"


async def test_withdrawing_without_a_vote_creates_no_person(agent: Agent) -> None:
    _, reply = await talk(agent)
    await agent.feedback.withdraw(reply, "web", "stranger")
    assert await agent.database.read(find_person, agent.workspace_id, "web", "stranger") is None


async def test_the_rate_limit_of_votes_is_per_person(agent: Agent) -> None:
    known, reply = await talk(agent)

    async def vote(person: str, value: votes.Value) -> None:
        await agent.feedback.vote(reply, "web", Sender(person), value, most_a_minute=4)

    for value in (1, -1, 1, -1):
        await vote(ANA, value)  # type: ignore[arg-type]
    with pytest.raises(QuotaExceeded, match="4 votes within a minute") as refused:
        await vote(ANA, 1)
    assert 0 < refused.value.retry_after <= 60
    assert [value for value, _, counts in await history(agent, known) if counts] == [-1], "the last one still counts"
    await vote(ANA, -1)  # a request that comes again is no flood
    await agent.feedback.withdraw(reply, "web", ANA)
    await vote(BEN, 1)
    assert await agent.feedback.votes_on(reply.id) == [Vote(1)]


# --- consent ---


def with_policy(agent: Agent, policy: str) -> Consent:
    return Consent(agent.scope, policy)  # type: ignore[arg-type]


async def test_consent_not_given_differs_from_yes_and_no(agent: Agent) -> None:
    known, _ = await talk(agent)
    assert await agent.consent.choices("web", ANA, known.id) == consent.Choices(None, None)
    await agent.consent.set_person("web", Sender(ANA), True)
    await agent.consent.set_conversation(known.id, "web", ANA, False)
    assert await agent.consent.choices("web", ANA, known.id) == consent.Choices(True, False)
    assert await agent.consent.choices("web", ANA) == consent.Choices(True, None)
    assert await agent.consent.choices("web", BEN, known.id) == consent.Choices(None, False)
    await agent.consent.set_person("web", Sender(ANA), None)
    await agent.consent.set_conversation(known.id, "web", ANA, None)
    assert await agent.consent.choices("web", ANA, known.id) == consent.Choices(None, None)


async def test_a_person_can_refuse_before_their_first_message(agent: Agent) -> None:
    await agent.consent.set_person("web", Sender("new"), False)
    await talk(agent, "new", "n")
    assert await agent.consent.choices("web", "new") == consent.Choices(False, None)


async def test_all_may_refuse_and_only_the_first_person_may_allow(agent: Agent) -> None:
    known, _ = await talk(agent)
    await talk(agent, BEN, "c", "Me, too")
    await agent.consent.set_conversation(known.id, "web", BEN, False)
    for choice in (True, None):
        with pytest.raises(NotAllowed):
            await agent.consent.set_conversation(known.id, "web", BEN, choice)
    assert (await agent.consent.choices("web", BEN, known.id)).conversation is False
    await agent.consent.set_conversation(known.id, "web", ANA, True)
    assert (await agent.consent.choices("web", BEN, known.id)).conversation is True
    with pytest.raises(NotFound):
        await agent.consent.set_conversation("nowhere", "web", ANA, False)


async def test_the_policy_decides_without_a_choice(agent: Agent) -> None:
    said = await agent.consent.choices("web", "nobody")
    assert with_policy(agent, "opt-out").allows(said)
    assert not with_policy(agent, "opt-in").allows(said)
