"""Intents: training, classification, calibration, files and chats.

They run on both databases with the real embedder and a scripted model. `benchmarks/intents.py` measures the accuracy on
large data.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from adapters.cli.wiring import Agent
from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, NotAllowed, NotFound
from bot.knowledge.intents.intent_file import Phrases, read_phrases, write_phrases
from bot.knowledge.intents.intents import Intents
from bot.knowledge.search import search as search_module
from bot.knowledge.search.embedder import Vectors
from bot.knowledge.search.search import Search
from storage.schema import reply
from tests.builders.agents import StartAgent, model_of
from tests.builders.desk import ADMIN, Desk
from tests.builders.shop import INTENTS_CSV, Person, W

pytestmark = pytest.mark.model

VIEWER = Actor("web:eve", "viewer")


def phrases() -> Phrases:
    return read_phrases(INTENTS_CSV.encode())


@pytest.fixture
async def chat(
    desk: Desk, start_agent: StartAgent, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Agent]:
    """Start an agent without any article."""
    monkeypatch.setattr(search_module, "resolve_embedder", lambda *_: None)
    monkeypatch.setattr(search_module, "Embedder", lambda *_, **__: desk.embedder)
    async with start_agent(database_url, contact="help@shop.example") as agent:
        yield agent


@pytest.fixture
def intents(desk: Desk) -> Intents:
    return Intents(desk.scope, desk.search)


async def test_paraphrases_of_trained_phrases_are_recognised(intents: Intents) -> None:
    steps: list[tuple[int, int]] = []
    made = await intents.train(ADMIN, phrases(), lambda done, of: steps.append((done, of)))
    assert (made.version, len(made.phrases), steps[-1]) == (1, 12, (12, 12))
    assert 0.5 < made.report["macro_f1"] <= 1
    told = await intents.try_out(VIEWER, "wheres my ordr")
    assert (told.intent, told.reply) == ("order status", None)
    assert (await intents.try_out(VIEWER, "give me an agent to speak with")).reply.startswith("Our team answers")  # type: ignore[union-attr]
    assert (await intents.try_out(VIEWER, "What is the capital of France?")).intent == ""


@pytest.mark.both_databases
async def test_newly_trained_intents_apply_at_once(intents: Intents, desk: Desk) -> None:
    other = Intents(desk.scope, desk.search)
    await intents.train(ADMIN, phrases())
    assert (await other.try_out(ADMIN, "Where is my order?")).intent == "order status"
    renamed = Phrases(tuple((text, intent.upper()) for text, intent in phrases().rows), {})
    await intents.train(ADMIN, renamed)
    assert (await other.try_out(ADMIN, "Where is my order?")).intent == "ORDER STATUS"
    await other.clear(ADMIN)
    with pytest.raises(NotFound, match="There are no intents"):
        await intents.try_out(ADMIN, "Where is my order?")


async def test_cleared_and_retrained_intents_replace_old_ones(intents: Intents) -> None:
    await intents.train(ADMIN, phrases())
    assert (await intents.try_out(ADMIN, "Where is my order?")).intent == "order status"
    await intents.clear(ADMIN)
    await intents.train(ADMIN, Phrases(tuple((text, intent.upper()) for text, intent in phrases().rows), {}))
    assert (await intents.try_out(ADMIN, "Where is my order?")).intent == "ORDER STATUS"


@pytest.mark.both_databases
async def test_a_stored_model_gives_the_same_scores(intents: Intents, desk: Desk) -> None:
    await intents.train(ADMIN, phrases())
    found, counts = await intents.show(VIEWER)
    assert (write_phrases(found.phrases, found.replies), counts) == (
        write_phrases(phrases().rows, phrases().replies),
        {},
    )
    again = Intents(desk.scope, desk.search)
    for text in ("Where is my order?", "nothing of the kind"):
        ours, theirs = await intents.try_out(ADMIN, text), await again.try_out(ADMIN, text)
        assert ours.guess.fit == pytest.approx(theirs.guess.fit, abs=1e-3)


async def test_only_trainers_change_intents(intents: Intents) -> None:
    with pytest.raises(NotAllowed):
        await intents.train(VIEWER, phrases())
    await intents.train(ADMIN, phrases())
    with pytest.raises(NotAllowed):
        await intents.clear(VIEWER)
    with pytest.raises(NotAllowed):
        await intents.measure(VIEWER, phrases(), keep=0.9)


async def test_a_threshold_is_calibrated_on_messages(intents: Intents) -> None:
    await intents.train(ADMIN, phrases())
    messages = read_phrases(
        b"text,intent\nwhere the hell is my stuff,order status\nmoney back now,refund\nhuman!,human\n"
        b"tell me a joke,\nwho won the cup,\n"
    )
    measured = await intents.measure(VIEWER, messages)
    assert (measured.messages, measured.out_of_scope_found) == (5, 1.0)
    kept = await intents.measure(ADMIN, messages, keep=1.0)
    assert (kept.answered, kept.macro_f1) == (1.0, 1.0)
    assert (await intents.measure(VIEWER, messages)).threshold == pytest.approx(kept.threshold, abs=1e-4)


@pytest.mark.both_databases("a race")
async def test_calibration_does_not_restore_cleared_intents(
    intents: Intents, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await intents.train(ADMIN, phrases())
    embed = desk.search.embed

    async def embed_while_somebody_clears(texts: Sequence[str]) -> Vectors:
        await Intents(desk.scope, desk.search).clear(ADMIN)
        return await embed(texts)

    monkeypatch.setattr(desk.search, "embed", embed_while_somebody_clears)
    with pytest.raises(Conflict, match="trained or cleared in the meantime"):
        await intents.measure(ADMIN, phrases(), keep=0.9)
    with pytest.raises(NotFound):
        await intents.show(VIEWER)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe", "not text in UTF-8"),
        (b"question,answer\na,b\n", "header text,intent"),
        (b"text,intent\n", "contains no phrases"),
        (b"text,intent\n,a\nx,a\nx,b\n", 'line 2: the text is missing\nf.csv, line 4: "x" has the intent "a"'),
        (b"text,intent\n" + b"x" * 1001 + b",a\n", "more than 1000 characters"),
        (b'text,intent\n"open,a\n', "f.csv, line"),
        (b"text,intent\nHi, how are you,greeting\n", "line 2: there are more columns than in the header"),
        (b"text,intent\n" + b",a\n" * 12, "line 11: the text is missing\n... and 2 more"),
        (b"text,intent\n" + b"".join(b"%d,a\n" % n for n in range(50_001)), "more than 50,000 phrases"),
        (b"text,intent,reply\na,i,one\nb,i,two\n", 'the intent "i" has a different reply'),
    ],
)
def test_a_bad_file_is_refused_with_its_lines(content: bytes, told: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read_phrases(content, "f.csv")
    assert told in error.value.message


def test_a_training_line_without_an_intent_is_named() -> None:
    content = b"text,intent\na,one\nb,\n"
    assert read_phrases(content).rows == (("a", "one"), ("b", "")), "to measure by, it is out of scope"
    with pytest.raises(InvalidInput, match=r"f\.csv, line 3: a training phrase needs an intent"):
        read_phrases(content, "f.csv", to_learn=True)


def test_a_written_file_reads_back_with_each_reply_once() -> None:
    odd = Phrases((("a\nb", "one"), ('say "x", please', "one"), ("c", "two")), {"one": "Ask us."})
    written = write_phrases(odd.rows, odd.replies)
    assert read_phrases(written.encode()) == odd
    assert written.count("Ask us.") == 1
    assert read_phrases(b'text,intent\n"a\rb",one\n').rows == (("a\nb", "one"),)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"text,intent\na,one\nb,one\n", "at least 2 intents"),
        (b"text,intent\na,one\nb,one\nc,two\n", "at least 2 phrases; too few: two"),
        (b"text,intent\na,one\nb,\n", "needs an intent"),
    ],
)
async def test_too_few_training_phrases_are_refused(intents: Intents, content: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        await intents.train(ADMIN, read_phrases(content))


# --- in chats ---


async def test_without_articles_only_known_intents_are_answered(chat: Agent, intents: Intents) -> None:
    person = Person(chat)
    model_of(chat).enqueue("No intents yet.")
    assert (await person.ask("Who won the world cup?"))[0] == "No intents yet."
    await intents.train(ADMIN, phrases())
    assert (await person.ask("Who won the world cup?"))[0].startswith("I don't know")
    model_of(chat).enqueue("It is on its way.")
    assert (await person.ask("where is my order now"))[0] == "It is on its way."
    model_of(chat).enqueue("Hello!")
    assert (await person.ask("Hello there!"))[0] == "Hello!", "nobody is refused a greeting"


@pytest.mark.both_databases
async def test_intents_give_verbatim_replies_and_are_counted(chat: Agent, intents: Intents) -> None:
    await intents.train(ADMIN, phrases())
    person = Person(chat)
    text, _ = await person.ask("can I speak with a real person")
    assert text == "Our team answers at +49 30 1234, Monday to Friday."
    assert not model_of(chat).prompts
    await person.ask("Who won the world cup?")
    model_of(chat).enqueue("Soon.")
    await person.ask("my refund did not arrive")
    assert (await intents.show(VIEWER))[1] == {"human": 1, "": 1, "refund": 1}
    stored = await chat.database.read(lambda tx: [row.origin for row in tx.connection.execute(reply.select())], W)
    assert sorted(stored) == ["intent", "model", "unknown"]


async def test_articles_answer_messages_outside_the_intents(desk: Desk, shop: Agent) -> None:
    await Intents(desk.scope, desk.search).train(ADMIN, phrases())
    model_of(shop).enqueue("To Norway postage costs 9 euros.")
    text, sources = await Person(shop).ask("What does postage to Norway cost?")
    assert (text, sources) == ("To Norway postage costs 9 euros. [1]", ["Shipping"])


async def test_intents_of_another_embedder_are_ignored(
    chat: Agent, intents: Intents, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await intents.train(ADMIN, phrases())
    monkeypatch.setattr(desk.embedder, "name", "another")
    model_of(chat).enqueue("I am asked.")
    assert (await Person(chat).ask("Who won the world cup?"))[0] == "I am asked."
    with pytest.raises(NotFound, match="They must be trained again"):
        await Intents(desk.scope, Search(desk.scope, lambda: desk.embedder)).try_out(ADMIN, "x")
