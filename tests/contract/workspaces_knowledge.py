"""Cases of articles and their search for the contract of workspaces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from storage import curated, gaps, intents, jobs, knowledge, knowledge_search, reviews
from storage.jobs import JobLease, LeaseLost
from storage.knowledge_values import AUDIENCES, Article, Index, NewPassage, Source
from storage.transaction import Transaction
from storage.values import new_id
from tests.contract.workspaces import LEASE_MS, Case, World, name_of

ACTOR = "shell:root"
NEAR = np.array([1.0, 0.0], np.float32)
INDEX = Index(1, "a model", 1, 1, 2.0, {"rose": 1}, 0)


def lease_of(world: World) -> JobLease:
    lease = world.things["sync"]
    assert isinstance(lease, JobLease)
    return lease


def source_of(world: World) -> Source:
    source = world.things["source"]
    assert isinstance(source, Source)
    return source


def article_of(world: World) -> Article:
    article = world.things["article"]
    assert isinstance(article, Article)
    return article


def add_unseen(tx: Transaction, world: World) -> None:
    new = replace(article_of(world), id=new_id())
    knowledge.add_article(tx, lease_of(world), new, [NewPassage((), "A rose.", "rose", NEAR)], 2)


def end_and_publish(tx: Transaction, world: World) -> None:
    ended = [article_of(world).id]
    knowledge.publish(tx, lease_of(world), replace(INDEX, version=2, num_articles=0), ended, [source_of(world).id])


def put_intents(tx: Transaction, _world: World) -> None:
    phrases = [("hello", "greeting"), ("bye", "farewell")]
    intents.put(tx, ACTOR, embedder="a model", phrases=phrases, replies={}, computed=b"x", threshold=0.3, report={})


def found(tx: Transaction) -> Any:
    table = knowledge_search.vectors(tx) if tx.connection.dialect.name == "sqlite" else None
    return knowledge_search.candidates(tx, {"rose": 1.0}, NEAR, ["public"], INDEX, table)


CASES = {
    name_of(knowledge.put_source): Case(
        [
            lambda tx, w: knowledge.put_source(tx, ACTOR, "upload", "upload:b.md", "public", b"b"),
            lambda tx, w: knowledge.put_source(tx, ACTOR, "upload", "upload:a.md", "staff", b"c"),
        ]
    ),
    name_of(knowledge.remove_source): Case(
        [lambda tx, w: knowledge.remove_source(tx, ACTOR, "upload:a.md")],
        lambda tx, w: knowledge.remove_source(tx, ACTOR, f"upload:only-{w.lease.workspace_id}.md"),
        False,
        lambda tx, w: knowledge.put_source(tx, ACTOR, "upload", f"upload:only-{tx.workspace_id}.md", "public", b""),
    ),
    name_of(knowledge.sources): Case([lambda tx, w: knowledge.sources(tx)]),
    name_of(knowledge.content): Case(
        [lambda tx, w: knowledge.content(tx, source_of(w).id, "public")],
        lambda tx, w: knowledge.content(tx, source_of(w).id, "public"),
        None,
    ),
    name_of(knowledge.version): Case([lambda tx, w: knowledge.version(tx)]),
    name_of(knowledge.index): Case([lambda tx, w: knowledge.index(tx)]),
    name_of(knowledge.articles): Case([lambda tx, w: knowledge.articles(tx)]),
    name_of(knowledge.articles_with): Case([lambda tx, w: knowledge.articles_with(tx, "", AUDIENCES, 9)[0]]),
    name_of(knowledge.find_articles): Case(
        [lambda tx, w: knowledge.find_articles(tx, "a")],
        lambda tx, w: knowledge.find_articles(tx, article_of(w).id),
        [],
    ),
    name_of(knowledge.texts): Case(
        [lambda tx, w: knowledge.texts(tx, article_of(w).id)], lambda tx, w: knowledge.texts(tx, article_of(w).id), []
    ),
    name_of(knowledge.begin): Case(
        [lambda tx, w: [knowledge.begin(tx, lease_of(w))]], lambda tx, w: knowledge.begin(tx, lease_of(w)), LeaseLost
    ),
    name_of(knowledge.add_article): Case([add_unseen], add_unseen, LeaseLost),
    name_of(knowledge.words_of): Case([lambda tx, w: knowledge.words_of(tx, 1)]),
    name_of(knowledge.publish): Case([end_and_publish], end_and_publish, LeaseLost),
    name_of(knowledge.clear_past): Case(
        [
            end_and_publish,
            lambda tx, w: knowledge.publish(tx, lease_of(w), replace(INDEX, version=3), [], []),
            lambda tx, w: knowledge.clear_past(tx, lease_of(w)),
        ],
        lambda tx, w: knowledge.clear_past(tx, lease_of(w)),
        LeaseLost,
    ),
    name_of(knowledge.set_threshold): Case(
        [lambda tx, w: knowledge.set_threshold(tx, ACTOR, 0.7, {}), lambda tx, w: knowledge.threshold(tx).value]
    ),
    name_of(knowledge.threshold): Case([lambda tx, w: knowledge.threshold(tx).value]),
    name_of(knowledge.forget_threshold): Case([lambda tx, w: knowledge.forget_threshold(tx, ACTOR)]),
    name_of(knowledge.answering_rules): Case([lambda tx, w: knowledge.answering_rules(tx)]),
    name_of(intents.current): Case([lambda tx, w: intents.current(tx).phrases]),
    name_of(intents.put): Case([put_intents, lambda tx, w: intents.current(tx).version]),
    name_of(intents.forget): Case([lambda tx, w: intents.forget(tx, ACTOR)]),
    name_of(intents.counts): Case([lambda tx, w: [intents.counts(tx, 1)]]),
    name_of(curated.all_answers): Case([lambda tx, w: [one.answer for one in curated.all_answers(tx)]]),
    name_of(curated.given): Case([lambda tx, w: [curated.given(tx)]]),
    name_of(curated.add): Case([lambda tx, w: bool(curated.add(tx, ACTOR, "Why?", "So.", "public", w.reply.id))]),
    name_of(curated.remove): Case(
        [lambda tx, w: curated.remove(tx, ACTOR, w.things["curated"])],
        lambda tx, w: curated.remove(tx, ACTOR, w.things["curated"]),
        False,
    ),
    name_of(curated.corrections): Case(
        [
            lambda tx, w: reviews.decide(tx, w.reply.id, "correct", "better", "web:ada"),
            lambda tx, w: [one.better for one in curated.corrections(tx)],
        ]
    ),
    name_of(curated.forget_person): Case([lambda tx, w: [curated.forget_person(tx, "nobody")]]),
    name_of(curated.forget_reply): Case([lambda tx, w: [curated.forget_reply(tx, "none")]]),
    name_of(gaps.unanswered): Case([lambda tx, w: [gaps.unanswered(tx, 1, 10)]]),
    name_of(gaps.close): Case(
        [lambda tx, w: gaps.close(tx, ACTOR, [w.reply.id])], lambda tx, w: gaps.close(tx, ACTOR, [w.reply.id]), 0
    ),
    name_of(knowledge_search.vectors): Case([lambda tx, w: knowledge_search.vectors(tx).ids.tolist()]),
    name_of(knowledge_search.load_index): Case([lambda tx, w: knowledge_search.load_index(tx, True)[0]]),
    name_of(knowledge_search.candidates): Case([lambda tx, w: found(tx).passages]),
}


def fill(tx: Transaction, world: World) -> None:
    """An upload with an article of one passage, published by a job that still runs."""
    jobs.create(tx, ACTOR, "sync", {}, device=f"knowledge of {tx.workspace_id}")
    lease = jobs.claim(tx, "worker", LEASE_MS)
    assert lease is not None
    assert lease.workspace_id == tx.workspace_id
    source = knowledge.put_source(tx, ACTOR, "upload", "upload:a.md", "public", b"# A\n\nA rose.")
    article = Article(new_id(), source.id, "a", "upload:a.md", "A", None, None, "public", "hash", 0)
    knowledge.add_article(tx, lease, article, [NewPassage((), "A rose.", "rose", NEAR)], 1)
    knowledge.publish(tx, lease, INDEX, [], [source.id])
    knowledge.set_threshold(tx, ACTOR, 0.6, {"questions": 10})
    put_intents(tx, world)
    answer_id = curated.add(tx, ACTOR, "When?", "Now.", "staff")
    world.things |= {"curated": answer_id, "sync": lease, "source": source, "article": article}
