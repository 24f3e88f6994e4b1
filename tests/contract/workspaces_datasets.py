"""Cases of datasets and reviews for the contract of workspaces."""

from __future__ import annotations

import sqlalchemy as sa

from storage import dataset_sources, datasets, reviews, votes
from storage.learning_values import Example, Rejected
from storage.schema import message
from storage.transaction import Transaction, scoped
from storage.values import Sender, new_id, text_part
from storage.votes import RatedReply, Vote
from tests.contract.workspaces import CHANNEL, KEY, PERSON, Case, World, name_of

SHA256 = "a hash"
# Before all others, so that it is nobody's last reply.
_INSERT_REPLY = scoped(
    sa.insert(message).values(seq=0, rank=1, author="bot", parts=[text_part("a bad answer")], created_at=0)
)


def example(world: World, number: int) -> Example:
    question = ({"role": "user", "content": f"question {number}"},)
    return Example("answer", "import", "train", world.conversation.id, world.reply.id, None, question, "answer")


def left_out(world: World) -> Rejected:
    return Rejected("answer", "import", world.conversation.id, world.reply.id, None, "the answer is too short")


def dataset_id(world: World) -> str:
    return str(world.things["dataset"])


def draft_id(world: World) -> str:
    return str(world.things["dataset draft"])


CASES = {
    name_of(dataset_sources.count_conversations): Case([lambda tx, w: [dataset_sources.count_conversations(tx)]]),
    name_of(dataset_sources.sources_page): Case([lambda tx, w: dataset_sources.sources_page(tx, "")]),
    name_of(datasets.begin): Case([lambda tx, w: datasets.begin(tx, {}, "shell:root")]),
    name_of(datasets.add): Case(
        [lambda tx, w: datasets.add(tx, draft_id(w), 2, [example(w, 3), left_out(w)])],
        lambda tx, w: datasets.add(tx, draft_id(w), 2, [example(w, 3)]),
        datasets.NoSuchDraft,
    ),
    name_of(datasets.finish): Case(
        [lambda tx, w: datasets.finish(tx, draft_id(w), "another hash", {"examples": 1})],
        lambda tx, w: datasets.finish(tx, draft_id(w), "another hash", {}),
        datasets.NoSuchDraft,
    ),
    name_of(datasets.abandon): Case(
        [lambda tx, w: datasets.abandon(tx, draft_id(w))], lambda tx, w: datasets.abandon(tx, draft_id(w)), False
    ),
    name_of(datasets.find_by_sha256): Case([lambda tx, w: datasets.find_by_sha256(tx, SHA256)]),
    name_of(datasets.list_all): Case([lambda tx, w: datasets.list_all(tx)]),
    name_of(datasets.examples_page): Case(
        [lambda tx, w: datasets.examples_page(tx, dataset_id(w), None)],
        lambda tx, w: datasets.examples_page(tx, dataset_id(w), None),
        [],
    ),
    name_of(datasets.example_hashes): Case(
        # The same examples have the same hash everywhere.
        [lambda tx, w: [len(datasets.example_hashes(tx, dataset_id(w)))]],
        lambda tx, w: datasets.example_hashes(tx, dataset_id(w)),
        set(),
    ),
    name_of(datasets.consent_now): Case(
        [lambda tx, w: datasets.consent_now(tx, dataset_id(w))],
        lambda tx, w: datasets.consent_now(tx, dataset_id(w)),
        {},
    ),
    name_of(datasets.has_erased): Case([lambda tx, w: [datasets.has_erased(tx, dataset_id(w))]]),
    name_of(datasets.rejected_page): Case(
        [lambda tx, w: datasets.rejected_page(tx, dataset_id(w))],
        lambda tx, w: datasets.rejected_page(tx, dataset_id(w)),
        [],
    ),
    name_of(reviews.waiting_page): Case([lambda tx, w: reviews.waiting_page(tx)]),
    name_of(reviews.question_before): Case(
        [lambda tx, w: [reviews.question_before(tx, w.conversation.id, 1)]],
        lambda tx, w: reviews.question_before(tx, w.conversation.id, 1),
        "",
    ),
    name_of(reviews.count_waiting): Case([lambda tx, w: [reviews.count_waiting(tx, 1)]]),
    name_of(reviews.decide): Case(
        [
            lambda tx, w: reviews.decide(tx, w.reply.id, "correct", "better", "web:ada"),
            lambda tx, w: reviews.decide(tx, w.reply.id, "exclude", None, "web:ada"),
        ],
        lambda tx, w: reviews.decide(tx, w.reply.id, "approve", None, "web:ada"),
        False,
    ),
    name_of(reviews.withdraw): Case(
        [
            lambda tx, w: reviews.decide(tx, w.reply.id, "approve", None, "web:ada"),
            lambda tx, w: reviews.withdraw(tx, w.reply.id, "web:ada"),
        ],
        lambda tx, w: reviews.withdraw(tx, w.reply.id, "web:ada"),
        False,
    ),
    name_of(reviews.proposed_answer): Case(
        [lambda tx, w: reviews.proposed_answer(tx, w.things["complained of"])],
        lambda tx, w: reviews.proposed_answer(tx, w.things["complained of"]),
        None,
    ),
    name_of(reviews.history): Case(
        [lambda tx, w: reviews.history(tx, w.reply.id)], lambda tx, w: reviews.history(tx, w.reply.id), []
    ),
}


def fill(tx: Transaction, world: World) -> None:
    world.things["dataset"] = first = datasets.begin(tx, {}, "shell:root")
    datasets.add(tx, first, 0, [example(world, 1), left_out(world)])
    datasets.finish(tx, first, SHA256, {"examples": 1})
    world.things["dataset draft"] = draft = datasets.begin(tx, {}, "shell:root")
    datasets.add(tx, draft, 0, [example(world, 2)])
    reviews.decide(tx, world.reply.id, "approve", None, "web:ada")
    world.things["complained of"] = complained_of = new_id()
    tx.execute(_INSERT_REPLY, id=complained_of, conversation_id=world.conversation.id)
    rated = RatedReply(complained_of, world.conversation.id, KEY)
    votes.cast(tx, rated, CHANNEL, Sender(PERSON), Vote(-1, "no", "better"))
