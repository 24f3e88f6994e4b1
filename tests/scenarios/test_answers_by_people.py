"""Curated answers and knowledge gaps, through the whole path of a message.

They run on both databases with the real embedder and a scripted model.
"""

from __future__ import annotations

import pytest

from adapters.cli.wiring import Agent
from bot.access.roles import Actor
from bot.errors import InvalidInput, NotAllowed, NotFound
from bot.knowledge.curated_answers import CuratedAnswers, is_same_question
from bot.knowledge.knowledge_gaps import PLACE_FOR_THE_ANSWER, Gaps
from bot.learning.data.review_queue import Reviews
from bot.privacy.redaction.redactor import hide_personal_data
from storage import curated, knowledge
from storage.schema import reply
from storage.transaction import Transaction
from tests.builders.agents import model_of
from tests.builders.desk import ADMIN, Desk
from tests.builders.shop import CONTACT, Person, W

pytestmark = pytest.mark.model

AGENT = Actor("web:bob", "agent")
VIEWER = Actor("web:eve", "viewer")
QUESTION, ANSWER = "Do you sell gift cards?", "Yes: 25, 50 and 100 euros, at the till and by e-mail."


@pytest.fixture
def answers(desk: Desk) -> CuratedAnswers:
    return CuratedAnswers(desk.scope, desk.search)


@pytest.fixture
def gaps(desk: Desk, shop: Agent) -> Gaps:
    return Gaps(desk.scope, shop.grounding, desk.library, hide_personal_data(["DE"]))


# --- curated answers ---


@pytest.mark.both_databases
async def test_the_same_question_gets_the_verbatim_answer(shop: Agent, answers: CuratedAnswers) -> None:
    added = await answers.add(ADMIN, QUESTION, ANSWER)
    person = Person(shop)
    for asked in (QUESTION, "do you sell gift cards", "Hi, do you sell any gift cards?"):
        assert await person.ask(asked) == (ANSWER, []), asked
    assert not model_of(shop).prompts
    assert [(one.id, given) for one, given in await answers.list(VIEWER)] == [(added, 3)]
    stored = await shop.database.read(lambda tx: [row.origin for row in tx.connection.execute(reply.select())], W)
    assert stored == ["curated"] * 3


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How do I reset my password?", "how to reset password", True),
        ("Can I change my delivery address?", "Can I change the delivery address of my order?", True),
        ("What does shipping to Norway cost?", "What does shipping to Denmark cost?", False),
        ("Can I return it after 30 days?", "Can I return it after 60 days?", False),
        ("Do you ship to Canada?", "Do you not ship to Canada?", False),
        ("How do I block my card?", "How do I unblock my card?", False),
        ("Who are you?", "who are you", True),
        ("Who are you?", "Where are you?", False),
        ("How do I turn on two-factor authentication?", "How do I turn off two-factor authentication?", False),
        ("Can I cancel before the trial ends?", "Can I cancel after the trial ends?", False),
        ("How do I transfer from savings to checking?", "How do I transfer from checking to savings?", False),
        ("When is the annual meeting?", "Where is the annual meeting?", False),
        ("Can I check in early?", "Can I check out early?", False),
        ("Who can cancel my subscription?", "When can I cancel my subscription?", False),
        ("How do I turn on two-factor authentication?", "how to turn on two-factor authentication on my phone", True),
        ("怎么退货", "如何退货", True),
        ("怎么退货", "怎么换货", False),
    ],
)
def test_questions_differ_if_one_says_something_else(desk: Desk, one: str, other: str, same: bool) -> None:
    vectors = desk.embedder.embed([one, other])
    assert is_same_question(one, other, float(vectors[0] @ vectors[1])) is same


async def test_an_answer_for_staff_is_not_given_to_customers(shop: Agent, answers: CuratedAnswers) -> None:
    await answers.add(ADMIN, "When do we get paid?", "On the first.", "staff")
    assert (await Person(shop).ask("When do we get paid?"))[0].startswith("I don't know")
    assert (await Person(shop, "slack").ask("When do we get paid?"))[0] == "On the first."


async def test_a_removed_answer_is_no_longer_given(shop: Agent, answers: CuratedAnswers) -> None:
    added = await answers.add(ADMIN, QUESTION, ANSWER)
    person = Person(shop)
    assert (await person.ask(QUESTION))[0] == ANSWER
    assert (await answers.remove(ADMIN, added)).question == QUESTION
    assert (await person.ask(QUESTION))[0].startswith("I don't know")
    with pytest.raises(NotFound):
        await answers.remove(ADMIN, added)


@pytest.mark.both_databases("a race")
async def test_two_concurrent_changes_make_two_versions(answers: CuratedAnswers, shop: Agent) -> None:
    """Both changes may have read the same newest version, and so write the same number."""
    first, second = await answers.add(ADMIN, QUESTION, ANSWER), await answers.add(ADMIN, "Where are you?", "Here.")
    table = curated.curated_answer

    def make_it_the_newest(tx: Transaction, which: str) -> None:
        tx.connection.execute(table.update().where(table.c.id == which).values(version=9))

    versions = [(await shop.database.read(knowledge.answering_rules, W)).curated_version]
    for which in (first, second):
        await shop.database.write(make_it_the_newest, W, which)
        versions.append((await shop.database.read(knowledge.answering_rules, W)).curated_version)
    assert versions == sorted(set(versions))


async def test_bad_answers_are_refused(answers: CuratedAnswers) -> None:
    for question, answer, audience in ((" ", "a", "public"), ("q", "", "public"), ("q", "a", "all")):
        with pytest.raises(InvalidInput):
            await answers.add(ADMIN, question, answer, audience)
    with pytest.raises(NotAllowed):
        await answers.add(AGENT, "q", "a")


async def test_a_correction_by_staff_becomes_an_answer(shop: Agent, answers: CuratedAnswers) -> None:
    person = Person(shop)
    await person.ask(QUESTION)
    reply_id = (await person.history())[-1].id
    await Reviews(shop.scope).correct(AGENT, reply_id, ANSWER)
    (found,) = await answers.candidates(AGENT)
    assert (found.question, found.better, found.reviewer) == (QUESTION, ANSWER, "web:bob")
    await answers.approve(ADMIN, reply_id[:12])
    assert await answers.candidates(AGENT) == []
    assert (await person.ask(QUESTION))[0] == ANSWER


@pytest.mark.both_databases
async def test_erasing_a_person_removes_their_curated_question(shop: Agent, answers: CuratedAnswers) -> None:
    person = Person(shop)
    await person.ask(QUESTION)
    reply_id = (await person.history())[-1].id
    await Reviews(shop.scope).correct(AGENT, reply_id, ANSWER)
    await answers.approve(ADMIN, reply_id)
    assert (await person.ask(QUESTION))[0] == ANSWER
    (person_id,) = await shop.database.read(
        lambda tx: {row.person_id for row in tx.connection.execute(curated.curated_answer.select())}, W
    )
    assert await shop.database.write(curated.forget_person, W, person_id) == 1
    assert await answers.list(VIEWER) == []
    assert (await person.ask(QUESTION))[0].startswith("I don't know")


# --- gaps ---


@pytest.mark.both_databases
async def test_similar_unanswered_questions_are_one_gap(shop: Agent, gaps: Gaps) -> None:
    person = Person(shop)
    for asked in (
        "Do you sell gift cards?",
        "Can I buy a gift card?",
        "Do you repair bicycles?",
        "gift cards available?",
    ):
        assert CONTACT in (await person.ask(asked))[0]
    model_of(shop).enqueue("Within 30 days of delivery.")
    await person.ask("How long do I have to send something back?")
    first, second = await gaps.list(VIEWER)
    assert (first.count, len(first.reply_ids), len(first.questions)) == (3, 3, 3)
    assert (second.count, second.questions) == (1, ("Do you repair bicycles?",))
    assert first.draft.startswith(f"# {first.questions[0]}\n\n{PLACE_FOR_THE_ANSWER}\n")
    assert all(f"- {one}\n" in first.draft for one in first.questions[1:])


async def test_an_approved_draft_with_a_staff_reply_answers(shop: Agent, gaps: Gaps, desk: Desk) -> None:
    person = Person(shop)
    await person.ask("Do you sell gift cards? Call me, +49 30 901820")
    reply_id = (await person.history())[-1].id
    for text in (None, "# Do you sell gift cards?\n\n", "# Do you?\n\nAlso asked as:\n\n- gift cards?\n"):
        with pytest.raises(InvalidInput, match="no answer yet"):
            await gaps.approve(ADMIN, reply_id, text)
    await Reviews(shop.scope).correct(AGENT, reply_id, "We sell gift cards of 25 and 50 euros.")
    (seen,) = await gaps.list(VIEWER)
    assert PLACE_FOR_THE_ANSWER in seen.draft, "what staff wrote is for agents to see"
    (gap,) = await gaps.list(AGENT)
    assert "901820" not in gap.draft
    assert "We sell gift cards of 25 and 50 euros." in gap.draft
    source, _ = await gaps.approve(ADMIN, gap.id[:12])
    assert source.location.startswith("upload:do-you-sell-gift-cards")
    await desk.work()
    model_of(shop).enqueue("We sell gift cards of 25 and 50 euros.")
    text, sources = await person.ask("Do you sell gift cards?")
    assert text == "We sell gift cards of 25 and 50 euros. [1]"
    assert len(sources) == 1
    assert await gaps.list(VIEWER) == []


async def test_a_gap_is_found_by_any_of_its_reply_ids(shop: Agent, gaps: Gaps) -> None:
    """The most typical question, and so the gap's id, may change while the answer is written."""
    person = Person(shop)
    for asked in ("Do you sell gift cards?", "Can I buy a gift card?", "gift cards available?"):
        await person.ask(asked)
    (gap,) = await gaps.list(VIEWER)
    assert [(await gaps.find(VIEWER, one)).id for one in gap.reply_ids] == [gap.id] * 3


@pytest.mark.both_databases
async def test_a_gap_ends_once_an_article_answers_it(shop: Agent, gaps: Gaps, desk: Desk) -> None:
    await Person(shop).ask("Do you sell gift cards?")
    assert len(await gaps.list(VIEWER)) == 1
    desk.write("public/gifts.md", "# Gift cards\n\nWe sell gift cards of 25 and 50 euros.\n")
    await desk.sync()
    assert await gaps.list(VIEWER) == []


async def test_a_closed_gap_is_no_longer_listed(shop: Agent, gaps: Gaps) -> None:
    await Person(shop).ask("Do you repair bicycles?")
    (gap,) = await gaps.list(VIEWER)
    with pytest.raises(NotAllowed):
        await gaps.close(AGENT, gap.id)
    await gaps.close(ADMIN, gap.id)
    assert await gaps.list(VIEWER) == []
    with pytest.raises(NotFound):
        await gaps.find(ADMIN, gap.id)
