"""Dataset builds from stored chats, votes, reviews and imports; and the review queue."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bot.access.roles import Actor
from bot.errors import InvalidInput, NotAllowed, NotFound
from bot.jobs.contract import JobContext, Services
from bot.jobs.control import Jobs
from bot.jobs.worker import Worker
from bot.learning.data.candidates import DatasetPolicy
from bot.learning.data.dataset import TOO_MANY, build_dataset, find_dataset, read_examples, read_rejected
from bot.learning.data.review_queue import Reviews
from bot.learning.train.train_job import Training
from bot.settings import Settings
from storage import audit, datasets
from storage.learning_schema import dataset, dataset_example
from storage.learning_values import Dataset, Example
from storage.schema import DEFAULT_WORKSPACE, conversation, identity, person
from tests.builders.facts import Facts

pytestmark = pytest.mark.both_databases("what may be learnt is chosen by SQL")

TRAINER = Actor("shell:ada", "trainer")
AGENT = Actor("web:bob", "agent")


async def build(facts: Facts, **policy: Any) -> Dataset:
    return await build_dataset(facts.scope, DatasetPolicy(**policy), TRAINER)


async def examples_of(facts: Facts, **policy: Any) -> list[Example]:
    made = await build(facts, **policy)
    return await read_examples(facts.scope, made.id)


async def reasons(facts: Facts, made: Dataset) -> Counter[str]:
    return Counter(one.because for one in await read_rejected(facts.scope, made.id))


def forms(examples: list[Example]) -> set[tuple[Any, ...]]:
    return {(one.kind, one.source, one.chosen, one.rejected, one.good) for one in examples}


def reviews_of(facts: Facts) -> Reviews:
    return Reviews(facts.scope)


def talk(number: int) -> list[tuple[str, str]]:
    words = " ".join(f"word{number}x{place}" for place in range(8))
    return [("person", f"question about {words}"), ("agent", f"answer for {words}")]


# --- what becomes an example ---


async def test_nothing_stored_makes_an_empty_dataset(facts: Facts) -> None:
    made = await build(facts)
    assert made.counts["examples"] == 0
    assert (await build(facts)).id == made.id


async def test_each_signal_becomes_its_kind_of_example(facts: Facts) -> None:
    approved = await facts.chat("Do you ship abroad?", "Yes, to all of Europe.")
    corrected = await facts.chat("When are you open?", "We never close.")
    await facts.rated("Is it in stock now?", "I have no idea.", -1, better="Yes, we have plenty of those left.")
    await facts.rated("Can I pay by card?", "Yes, by any card.", 1)
    await facts.rated("Can I pay later?", "Please go away.", -1)
    await facts.chat("Will this teach you?", "Nobody said a word about this one.")
    await reviews_of(facts).approve(AGENT, approved)
    await reviews_of(facts).correct(AGENT, corrected, "From nine to five on weekdays.")
    assert forms(await examples_of(facts)) == {
        ("answer", "approved", "Yes, to all of Europe.", None, None),
        ("answer", "correction", "From nine to five on weekdays.", None, None),
        ("pair", "correction", "From nine to five on weekdays.", "We never close.", None),
        ("answer", "correction", "Yes, we have plenty of those left.", None, None),
        ("pair", "correction", "Yes, we have plenty of those left.", "I have no idea.", None),
        ("thumb", "thumb", "Yes, by any card.", None, True),
        ("thumb", "thumb", "Please go away.", None, False),
    }


async def test_an_answer_of_staff_makes_an_answer_and_a_pair(facts: Facts) -> None:
    await facts.add_import([[("person", "Where is my parcel then?"), ("agent", "It left us on Monday.")]])
    for key, written, draft in (
        ("other", "Please send us a photo of it first.", "We can not help you here."),
        ("trivial", "Please send us a photo of the broken part.", "Please send us a photo of the broken part"),
        ("number", "You have 31 days to send it back.", "You have 30 days to send it back."),
    ):
        (conversation_id,) = await facts.add_import([[("person", f"My {key} thing is broken")]], import_id=None)
        await facts.add_agent(conversation_id, 1, written, draft)
    assert forms(await examples_of(facts)) == {
        ("answer", "import", "It left us on Monday.", None, None),
        ("answer", "agent", "Please send us a photo of it first.", None, None),
        ("pair", "agent", "Please send us a photo of it first.", "We can not help you here.", None),
        ("answer", "agent", "Please send us a photo of the broken part.", None, None),
        ("answer", "agent", "You have 31 days to send it back.", None, None),
        ("pair", "agent", "You have 31 days to send it back.", "You have 30 days to send it back.", None),
    }


async def test_a_review_replaces_the_votes(facts: Facts) -> None:
    good = await facts.rated("Is this one fine?", "It surely is.", -1, better="It is not, by no means.")
    gone = await facts.rated("And is that one?", "Also yes, of course.", -1, better="No, that is a lie.")
    await reviews_of(facts).approve(AGENT, good)
    await reviews_of(facts).exclude(AGENT, gone)
    made = await build(facts)
    assert forms(await read_examples(facts.scope, made.id)) == {("answer", "approved", "It surely is.", None, None)}
    assert await reasons(facts, made) == {"excluded by a review": 1}


async def test_an_outside_correction_waits_for_a_review(facts: Facts) -> None:
    reply_id = await facts.rated("Do you sell tea?", "We do not.", -1, better="Green and black.", channel="web")
    made = await build(facts)
    assert made.counts["kinds"] == {"thumb": 1}
    assert await reasons(facts, made) == {"a correction that waits for a review": 1}
    assert await reviews_of(facts).correct(AGENT, reply_id) == "Green and black."
    assert (await build(facts)).counts["kinds"] == {"answer": 1, "pair": 1}
    assert (await build(facts, trusted_channels=("web",))).counts["kinds"] == {"answer": 1, "pair": 1}


async def test_contradictory_votes_and_failed_replies_teach_nothing(facts: Facts) -> None:
    reply_id = await facts.rated("Is it big enough?", "It is huge.", 1)
    await facts.vote(reply_id, -1, voter="bob", better="It is tiny, really.")
    await facts.rated("Does it work?", "Sorry, that failed.", -1, state="failed")
    made = await build(facts)
    assert made.counts["examples"] == 0
    assert await reasons(facts, made) == {"contradictory votes": 1, "the reply was not completed": 1}


async def test_a_prompt_is_the_prompt_that_the_model_read(facts: Facts) -> None:
    await facts.add_import(
        [
            [
                ("person", "hello"),
                ("person", "is anybody there"),
                ("agent", "Yes, hello."),
                ("agent", "How can I help?"),
                ("person", "my bike is broken"),
                ("agent", "Bring it to us."),
            ]
        ],
        instructions="You mend bikes.",
    )
    first, second = sorted(await examples_of(facts), key=lambda one: len(one.messages))
    system = {"role": "system", "content": "You mend bikes."}
    asked = {"role": "user", "content": "hello\n\nis anybody there"}
    assert list(first.messages) == [system, asked]
    assert first.chosen == "Yes, hello.\n\nHow can I help?"
    answered = {"role": "assistant", "content": first.chosen}
    assert list(second.messages) == [system, asked, answered, {"role": "user", "content": "my bike is broken"}]
    assert second.chosen == "Bring it to us."


async def test_texts_without_question_or_of_bad_length_are_rejected(facts: Facts) -> None:
    await facts.add_import(
        [
            [("agent", "Good morning to you!")],
            [("person", "a fine question"), ("agent", "x" * 5_000)],
            [("person", "another question"), ("agent", "k")],
            [("person", "q" * 20_000), ("agent", "a fine answer")],
        ]
    )
    made = await build(facts)
    assert await reasons(facts, made) == {
        "no question before it": 1,
        "the answer is too long": 1,
        "the answer is too short": 1,
        "the question is too long": 1,
    }


# --- consent ---


async def test_words_without_consent_never_enter(facts: Facts) -> None:
    for sender in ("ada", "bob", "eve"):
        await facts.rated(f"{sender} asks a thing", f"And {sender} gets this.", 1, sender=sender, key=sender)
    everybody = {one.chosen for one in await examples_of(facts)}
    assert everybody == {"And ada gets this.", "And bob gets this.", "And eve gets this."}
    bobs = (await examples_of(facts, consent="opt-out"))[0]
    assert bobs.person_id
    ids = dict(await facts.rows(sa.select(conversation.c.external_id, conversation.c.person_id)))
    await facts.run(person.update().where(person.c.id == ids["bob"]).values(may_learn=False))
    await facts.run(conversation.update().where(conversation.c.external_id == "eve").values(may_learn=False))
    made = await build(facts)
    assert forms(await read_examples(facts.scope, made.id)) == {("thumb", "thumb", "And ada gets this.", None, True)}
    assert await reasons(facts, made) == {"not allowed by the person or for the conversation": 2}
    assert await examples_of(facts, consent="opt-in") == []
    await facts.run(person.update().where(person.c.id == ids["ada"]).values(may_learn=True))
    assert len(await examples_of(facts, consent="opt-in")) == 1


async def test_an_adopted_proposal_stays_its_authors_words(facts: Facts) -> None:
    reply_id = await facts.rated("Do you sell tea?", "We do not.", -1, channel="web")
    await facts.vote(reply_id, -1, channel="web", voter="bob", better=" Only green tea, as far as I know. ")
    await reviews_of(facts).correct(AGENT, reply_id)
    ids = dict(await facts.rows(sa.select(identity.c.external_id, identity.c.person_id)))
    assert {(one.kind, one.person_id) for one in await examples_of(facts)} == {
        ("answer", ids["bob"]),
        ("pair", ids["bob"]),
    }
    await facts.run(person.update().where(person.c.id == ids["bob"]).values(may_learn=False))
    assert await examples_of(facts) == []
    await reviews_of(facts).correct(AGENT, reply_id, "We sell green and black tea.")
    assert {one.chosen for one in await examples_of(facts)} == {"We sell green and black tea."}


async def test_a_training_leaves_out_later_refusals(facts: Facts) -> None:
    for sender in ("ada", "bob", "eve", "zoe"):
        await facts.rated(f"{sender} asks a thing", f"And {sender} gets this.", 1, sender=sender, key=sender)
    await facts.chat("I am in this thread, too", "Welcome.", sender="dan", key="zoe")
    made = await build(facts)

    async def left(consent: Any) -> set[str]:
        found = await read_examples(facts.scope, made.id, consent=consent)
        return {one.chosen.split()[1] for one in found}

    assert await left("opt-out") == {"ada", "bob", "eve", "zoe"}
    assert await left("opt-in") == set()
    ids = dict(await facts.rows(sa.select(identity.c.external_id, identity.c.person_id)))
    await facts.run(person.update().where(person.c.id.in_([ids["bob"], ids["dan"]])).values(may_learn=False))
    await facts.run(conversation.update().where(conversation.c.external_id == "eve").values(may_learn=False))
    await facts.run(person.update().where(person.c.id == ids["ada"]).values(may_learn=True))
    assert await left("opt-out") == {"ada"}
    assert await left("opt-in") == {"ada"}
    assert len(await read_examples(facts.scope, made.id)) == 4


async def test_a_resumed_training_starts_over_after_a_refusal(facts: Facts, tmp_path: Path) -> None:
    for number in range(3):
        await facts.rated(talk(number)[0][1], talk(number)[1][1], 1, sender=f"sender {number}")
    used: list[str] = []

    def break_off(context: JobContext, services: Services) -> Mapping[str, Any]:
        kept = context.folder / "checkpoints" / "answers-000001-0.checkpoint"
        used.append(f"{Training(context, services).dataset().id} {kept.exists()}")
        kept.parent.mkdir(exist_ok=True)
        kept.touch()
        raise ValueError("somebody pulled the plug")

    begun = Jobs(facts.scope)
    job = await begun.train(TRAINER, {})
    services = Services(Settings(data=tmp_path), facts.database, 1)
    for number in range(3):
        if number == 2:
            await facts.run(person.update().values(may_learn=False))
        if number:
            await begun.resume(TRAINER, job.id)
        await Worker(services, {"train": break_off}, lease_seconds=30.0).work(once=True)
    first, second, third = (one.split() for one in used)
    assert (first[1], second) == ("False", [first[0], "True"])
    assert third[0] != first[0]
    assert third[1] == "False"


async def test_a_refusal_of_another_author_keeps_a_thread_out(facts: Facts) -> None:
    await facts.chat("I am in this thread, too", "Welcome.", sender="bob", key="thread")
    await facts.rated("and so am I", "Welcome again, to both.", 1, sender="ada", key="thread")
    assert len(await examples_of(facts)) == 1
    bob = sa.select(conversation.c.person_id).where(conversation.c.external_id == "thread")
    who = (await facts.rows(bob))[0][0]
    await facts.run(person.update().where(person.c.id == who).values(may_learn=False))
    assert await examples_of(facts) == []


async def test_an_erased_conversation_leaves_the_dataset(facts: Facts) -> None:
    gone, kept = await facts.add_import([talk(1), talk(2)])
    before = await build(facts)
    await facts.run(conversation.delete().where(conversation.c.id == gone))
    await facts.run(dataset_example.update().where(dataset_example.c.conversation_id == gone).values(content=None))
    after = await build(facts)
    assert after.id != before.id
    assert [one.conversation_id for one in await read_examples(facts.scope, after.id)] == [kept]
    assert [one.conversation_id for one in await read_examples(facts.scope, before.id)] == [kept]
    rows = await facts.rows(dataset_example.select().where(dataset_example.c.dataset_id == before.id))
    assert {row.conversation_id for row in rows} == {gone, kept}


# --- redaction ---


async def test_no_personal_data_reaches_a_dataset(facts: Facts) -> None:
    await facts.add_import(
        [
            [
                ("person", "My name is Nina Kowalski, mail nina@home.example"),
                ("person", "my card is 4111 1111"),
                ("person", "1111 1111"),
                ("agent", "Thank you, Nina. I wrote to nina@home.example."),
            ]
        ]
    )
    reply_id = await facts.rated(
        "where is it", "No idea.", -1, better="Ask Zoe at +44 20 7946 0018.", name="Zoe", sender="zoe"
    )
    assert reply_id
    made = await build(facts)
    rows = await facts.rows(dataset_example.select())
    stored = json.dumps([row.content for row in rows])
    assert not [secret for secret in ("Nina", "nina", "1111", "Zoe", "7946") if secret in stored]
    texts = {one.chosen for one in await read_examples(facts.scope, made.id)}
    assert texts == {"Thank you, [NAME_1]. I wrote to [EMAIL_1].", "Ask [NAME_1] at [PHONE_1]."}


# --- duplicates, caps, floods ---


async def test_exact_and_near_duplicates_are_rejected(facts: Facts) -> None:
    line = " ".join(f"word{place}" for place in range(40))
    long_ones = [[("person", "tell me all"), ("agent", f"{line} {end}")] for end in ("one", "two")]
    await facts.add_import(
        [talk(1), talk(1), [("person", talk(1)[0][1].upper()), ("agent", talk(1)[1][1] + "!")], *long_ones]
    )
    made = await build(facts)
    assert made.counts["examples"] == 2
    assert await reasons(facts, made) == {"the same as another": 2, "nearly the same as another": 1}


async def test_an_outside_person_is_capped(facts: Facts) -> None:
    for number in range(23):
        reply_id = await facts.chat(talk(number)[0][1], talk(number)[1][1], channel="web", sender="mallory")
        await reviews_of(facts).approve(AGENT, reply_id)
    made = await build(facts)
    assert made.counts["sources"] == {"approved": 20}
    assert await reasons(facts, made) == {TOO_MANY: 3}
    assert made.counts["rejected"] == {TOO_MANY: 3}
    assert (await build(facts, max_per_person=0)).counts["examples"] == 23
    assert (await build(facts, trusted_channels=("web",))).counts["examples"] == 23


async def test_corrections_on_a_trusted_channel_are_not_capped(facts: Facts) -> None:
    for number in range(60):
        better = f"better {talk(number)[1][1]}"
        await facts.rated(talk(number)[0][1], "I have no idea at all.", -1, better=better)
    made = await build(facts)
    assert made.counts["kinds"] == {"answer": 60, "pair": 60}
    assert made.counts["rejected"] == {}


async def test_imported_words_of_a_person_are_not_capped(facts: Facts) -> None:
    somebody = await facts.add_person(display_name=None)
    await facts.add_import([talk(number) for number in range(30)], person_id=somebody)
    assert (await build(facts)).counts["examples"] == 30


async def test_a_flood_of_votes_by_one_person_teaches_nothing(facts: Facts) -> None:
    for number in range(6):
        await facts.rated(talk(number)[0][1], talk(number)[1][1], -1, sender="mallory", channel="web")
    await facts.rated("an honest question", "an honest answer", -1, sender="ada", channel="web")
    made = await build(facts, max_votes_per_hour=5)
    assert made.counts["examples"] == 1
    assert await reasons(facts, made) == {"a flood by one person": 6}


async def test_a_repeated_correction_is_a_flood(facts: Facts) -> None:
    for number in range(4):
        await facts.rated(talk(number)[0][1], talk(number)[1][1], -1, better="Buy at evil.example!", sender="mallory")
    made = await build(facts, max_same_answer=3)
    assert made.counts["examples"] == 0
    assert await reasons(facts, made) == {"a flood by one person": 8}


# --- the split, rows, the manifest ---


async def test_the_split_keeps_groups_whole_and_the_sides_apart(facts: Facts) -> None:
    for group in range(60):
        await facts.add_import([talk(10 * group + number) for number in range(3)], split_group=f"g{group}")
    examples = await examples_of(facts)
    groups = dict(await facts.rows(sa.select(conversation.c.id, conversation.c.split_group)))
    sides: dict[str | None, set[str]] = {}
    for one in examples:
        sides.setdefault(groups[one.conversation_id], set()).add(one.split)
    assert all(len(side) == 1 for side in sides.values())
    held_out = sum(one.split == "held_out" for one in examples)
    assert len(examples) == 180
    assert 20 <= held_out <= 45
    before = {one.sha256 for one in examples if one.split == "held_out"}
    await facts.add_import([talk(5_000 + number) for number in range(200)])
    after = {one.sha256 for one in await examples_of(facts) if one.split == "held_out"}
    assert len(before & after) >= len(before) / 2, "what is held out stays so"


async def test_rows_limit_the_training_examples(facts: Facts) -> None:
    await facts.add_import([talk(number) for number in range(200)])
    made = await build(facts, rows=50)
    assert made.counts["splits"]["train"] == {"answer": 50}
    assert made.counts["splits"]["held_out"]["answer"] >= 20
    assert (await build(facts, rows=50)).sha256 == made.sha256
    assert (await build(facts, rows=50, newest=False)).counts["splits"]["train"] == {"answer": 50}


async def test_equal_conversations_make_one_dataset(facts: Facts) -> None:
    await facts.add_import([talk(number) for number in range(30)])
    made = await build(facts)
    again = await build(facts)
    assert (again.id, again.sha256) == (made.id, made.sha256)
    await facts.add_import([talk(99)])
    grown = await build(facts)
    assert grown.sha256 != made.sha256
    rows = await facts.rows(sa.select(dataset.c.id, dataset.c.sha256))
    named = await facts.rows(dataset_example.select().where(dataset_example.c.dataset_id == grown.id))
    agents = [row[0] for row in await facts.rows(sa.text("SELECT id FROM message WHERE author = 'agent'"))]
    assert {row.id for row in rows} == {made.id, grown.id}
    assert {row.message_id for row in named} == set(agents)
    actions = [row.action for row in await facts.database.read(audit.page, DEFAULT_WORKSPACE)]
    assert actions == ["dataset.built", "dataset.built"]


async def test_a_dataset_is_found_by_a_prefix(facts: Facts) -> None:
    with pytest.raises(NotFound, match="no dataset yet"):
        await find_dataset(facts.scope)
    await facts.add_import([talk(1)])
    made = await build(facts)
    for which in ("", made.id, made.id[:10], made.sha256[:8]):
        assert (await find_dataset(facts.scope, which)).id == made.id
    with pytest.raises(NotFound, match='no dataset "zzzz"') as unknown:
        await find_dataset(facts.scope, "zzzz")
    assert unknown.value.hint == "list_datasets"
    await facts.add_import([talk(2)])
    other = await build(facts)
    shared = made.id[: next(place for place in range(32) if made.id[place] != other.id[place])]
    with pytest.raises(InvalidInput, match="2 datasets"):
        await find_dataset(facts.scope, shared)


async def test_an_aborted_build_leaves_nothing(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    await facts.add_import([talk(number) for number in range(5)])

    def break_down(*_: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(datasets, "add", break_down)
    with pytest.raises(RuntimeError, match="no room"):
        await build(facts)
    assert await facts.rows(dataset.select()) == []


async def test_a_build_reports_progress_and_keeps_the_loop_free(facts: Facts) -> None:
    await facts.add_import([talk(number) for number in range(450)])
    told: list[tuple[int, int]] = []
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await build_dataset(facts.scope, DatasetPolicy(), TRAINER, lambda done, total: told.append((done, total)))
    ticking.cancel()
    assert told == [(0, 450), (200, 450), (400, 450), (450, 450)]
    assert ticks > 20


async def test_only_trainers_build_and_only_agents_decide(facts: Facts) -> None:
    with pytest.raises(NotAllowed):
        await build_dataset(facts.scope, DatasetPolicy(), AGENT)
    viewer = Actor("web:eve", "viewer")
    for call in (
        reviews_of(facts).queue(viewer),
        reviews_of(facts).approve(viewer, "x"),
        reviews_of(facts).correct(viewer, "x"),
    ):
        with pytest.raises(NotAllowed):
            await call


# --- reviews ---


async def test_the_queue_holds_undecided_replies_newest_first(facts: Facts) -> None:
    first = await facts.rated("first question", "first reply", -1)
    await facts.rated("a fine question", "a fine reply", 1)
    second = await facts.rated("second question", "second reply", 1, better="second, better")
    queue = await reviews_of(facts).queue(AGENT)
    assert [one.reply_id for one in queue] == [second, first]
    newest = queue[0]
    assert (newest.question, newest.text, newest.proposed) == ("second question", "second reply", "second, better")
    rest = await reviews_of(facts).queue(AGENT, before=newest.cursor, most=1)
    assert [one.reply_id for one in rest] == [first]
    await reviews_of(facts).correct(AGENT, second)
    await reviews_of(facts).exclude(AGENT, first)
    assert await reviews_of(facts).queue(AGENT) == []


async def test_the_newest_decision_counts_and_the_others_are_kept(facts: Facts) -> None:
    reply_id = await facts.rated("a question", "a reply", -1)
    await reviews_of(facts).approve(AGENT, reply_id)
    await reviews_of(facts).correct(AGENT, reply_id, " a better one ")
    newest, oldest = await reviews_of(facts).history(AGENT, reply_id)
    assert (newest.decision, newest.better, newest.replaced_at) == ("correct", "a better one", None)
    assert (oldest.decision, oldest.reviewer) == ("approve", "web:bob")
    assert oldest.replaced_at
    rows = await facts.database.read(audit.page, DEFAULT_WORKSPACE)
    assert [(row.action, row.target) for row in rows] == [("reply.correct", reply_id), ("reply.approve", reply_id)]
    assert "better" not in json.dumps([dict(row.details) for row in rows])


async def test_a_decision_needs_a_reply_and_words(facts: Facts) -> None:
    reply_id = await facts.rated("a question", "a reply", -1)
    with pytest.raises(NotFound, match="no reply nothing"):
        await reviews_of(facts).approve(AGENT, "nothing")
    with pytest.raises(InvalidInput, match="Nobody has proposed"):
        await reviews_of(facts).correct(AGENT, reply_id)
    with pytest.raises(InvalidInput, match="16,000"):
        await reviews_of(facts).correct(AGENT, reply_id, "x" * 16_001)
