"""Grounded replies in datasets: trained on the same prompts as chats show.

Chats, imports and reviews run on both databases, with the real search.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.cli.wiring import Agent
from bot.access.roles import Actor
from bot.generation.engine.chat_tokenizer import ChatTokenizer
from bot.generation.prompt import with_passages
from bot.knowledge.curated_answers import CuratedAnswers
from bot.learning.data.candidates import DatasetPolicy
from bot.learning.data.dataset import build_dataset, read_examples, read_rejected
from bot.learning.data.grounded_rows import BEYOND_THE_ARTICLES, NOT_FOR_ALL
from bot.learning.data.review_queue import Reviews
from bot.learning.judge.evaluation_rows import rows_of_examples
from bot.learning.train.material import prepare, with_system_prompt
from storage.learning_values import Dataset, Example
from tests.builders.agents import model_of
from tests.builders.desk import Desk
from tests.builders.facts import Facts
from tests.builders.shop import Person, StartShop

pytestmark = pytest.mark.model

TRAINER = Actor("shell:ada", "trainer")
AGENT = Actor("web:bob", "agent")
RETURNS_ASKED = "How long do I have to send something back?"


async def build(shop: Agent, *, with_articles: bool = True) -> tuple[Dataset, list[Example]]:
    grounding = shop.grounding if with_articles else None
    made = await build_dataset(shop.scope, DatasetPolicy(), TRAINER, lambda *_: None, grounding)
    return made, await read_examples(shop.scope, made.id)


async def reasons(shop: Agent, made: Dataset) -> Counter[str]:
    return Counter(one.because for one in await read_rejected(shop.scope, made.id))


async def approve_last(shop: Agent, person: Person) -> None:
    await Reviews(shop.scope).approve(AGENT, (await person.history())[-1].id)


@pytest.mark.both_databases
async def test_a_reply_is_trained_on_its_original_prompt(shop: Agent) -> None:
    person = Person(shop)
    model_of(shop).enqueue("You can send anything back ", "within 30 days of delivery.")
    await person.ask(RETURNS_ASKED)
    await approve_last(shop, person)
    made, (example,) = await build(shop)
    assert example.chosen == "You can send anything back within 30 days of delivery.", "without marks"
    shown = with_passages(with_system_prompt(example.messages, shop.settings.system_prompt), example.passages)
    assert tuple(shown) == tuple(model_of(shop).prompts[0].messages)
    assert made.counts["with_articles"] == 1
    assert rows_of_examples([example])[0].passages == example.passages


async def test_imported_answers_get_the_passages_of_a_chat(shop: Agent, facts: Facts) -> None:
    await facts.add_import([[("person", RETURNS_ASKED), ("agent", "Within 30 days of delivery.")]])
    await facts.add_import([[("person", "Who painted the Mona Lisa?"), ("agent", "That was Leonardo.")]])
    made, found = await build(shop)
    read = {one.chosen: {each.title for each in one.passages} for one in found}
    assert read == {"Within 30 days of delivery.": {"Returns"}, "That was Leonardo.": set()}
    assert (await build(shop))[0].id == made.id, "the same articles make the same dataset"
    without, _ = await build(shop, with_articles=False)
    assert without.id != made.id


async def test_a_follow_up_question_is_looked_up_in_context(shop: Agent, facts: Facts) -> None:
    await facts.add_import(
        [
            [
                ("person", "What does a parcel to Norway cost?"),
                ("agent", "To Norway postage costs 9 euros."),
                ("person", "And to Germany?"),
                ("agent", "Those travel for two days."),
            ]
        ]
    )
    _, found = await build(shop)
    assert [one.passages[0].title for one in found] == ["Shipping", "Shipping"]


async def test_answers_beyond_the_articles_are_not_learnt(shop: Agent, facts: Facts) -> None:
    person = Person(shop)
    model_of(shop).enqueue("You can send anything back within 30 days of delivery.")
    await person.ask(RETURNS_ASKED)
    reply_id = (await person.history())[-1].id
    await Reviews(shop.scope).correct(AGENT, reply_id, "Within 45 days.")
    await facts.add_import([[("person", RETURNS_ASKED), ("agent", "Within 60 days, says Mr Miller.")]])
    made, found = await build(shop)
    assert not found
    assert await reasons(shop, made) == {BEYOND_THE_ARTICLES: 3}, "the correction is an answer and a pair"


async def test_staff_articles_are_learnt_only_if_all_are_staff(start_shop: StartShop) -> None:
    async with start_shop() as shop:
        person = Person(shop, "slack")
        model_of(shop).enqueue("Salaries are paid on the first of a month.")
        await person.ask("When are salaries paid?")
        await approve_last(shop, person)
        made, found = await build(shop)
        assert (found, await reasons(shop, made)) == ([], {NOT_FOR_ALL: 1})
    async with start_shop(web_audience="staff", api_audience="staff") as desk:
        _, (example,) = await build(desk)
        assert example.passages[0].title == "Salaries"


async def test_repetitions_of_staff_articles_are_not_learnt(shop: Agent, desk: Desk) -> None:
    person = Person(shop, "slack")
    model_of(shop).enqueue("Salaries are paid on the first of a month.")
    await person.ask("When are salaries paid?")
    model_of(shop).enqueue("On the first.")
    assert await person.ask("please make that shorter") == ("On the first.", [])
    await approve_last(shop, person)
    await CuratedAnswers(desk.scope, desk.search).add(TRAINER, "Where do I park my car?", "In the yard.", "staff")
    assert (await person.ask("Where do I park my car?"))[0] == "In the yard."
    await approve_last(shop, person)
    made, found = await build(shop)
    assert (found, await reasons(shop, made)) == ([], {NOT_FOR_ALL: 2})


async def test_training_prompts_equal_serving_prompts(shop: Agent, facts: Facts, starter_model_path: Path) -> None:
    await facts.add_import([[("person", RETURNS_ASKED), ("agent", "Within 30 days of delivery.")]])
    _, (example,) = await build(shop)
    tokenizer = await asyncio.to_thread(ChatTokenizer, starter_model_path)
    end = tokenizer.find_end_of_turn(frozenset({2}))
    (row,) = prepare([replace(example, split="train")], "Be kind.", tokenizer, end, 512).watched.answers
    messages = with_passages(with_system_prompt(example.messages, "Be kind."), example.passages)
    assert row.token_ids[: row.learnt[0]] == tokenizer.encode(messages)
    assert "> Returns\n> You can send anything back within 30 days" in tokenizer.decode(row.token_ids)
    assert tokenizer.decode([row.token_ids[place] for place in row.learnt[:-1]]) == "Within 30 days of delivery."
