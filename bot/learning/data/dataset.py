"""From what is stored to a dataset: chosen, redacted, without duplicates, capped, split, and named by its content.

Knows: the order of these steps, and that the same facts give the same dataset. Does not know: SQL, how a model is
trained. A set that is too small or one-sided is none of its business: the counts say so, and the trainer refuses.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, NotFound
from bot.generation.prompt import quote
from bot.knowledge.grounding import Grounding
from bot.learning.data.candidates import (
    Candidate,
    DatasetPolicy,
    Offered,
    candidates_of,
    is_unfounded,
    texts_of,
    with_texts,
)
from bot.learning.data.duplicates import NearDuplicates, normal_hash
from bot.learning.data.grounded_rows import stand_on_articles
from bot.learning.data.splitting import in_order, split, take_rows
from bot.privacy.learning_consent import Policy as ConsentPolicy
from bot.privacy.learning_consent import may_learn
from bot.privacy.redaction.personal_data import PersonalDataFinder
from bot.privacy.redaction.redactor import Redactor
from storage import dataset_sources, datasets, erasure
from storage.dataset_sources import Source
from storage.learning_values import Dataset, Example, Rejected, Split
from storage.scope import Scope

PAGE = 200
WRITTEN_AT_ONCE = 250
HOUR_MS = 3_600_000
MIN_PREFIX = 4
# So often it begins again because somebody was erased meanwhile.
MAX_BUILDS = 5
TOO_MANY = "more than one person from outside may give"
# A better source keeps its words where two say nearly the same.
_BEST_FIRST = {"correction": 0, "approved": 1, "agent": 2, "import": 3, "thumb": 4}
_LENGTHS = (50, 100, 200, 400, 800, 1_600)

ReportProgress = Callable[[int, int], None]


def _say_nothing(done: int, total: int) -> None:
    """Nobody wants to know how far it is."""


async def build_dataset(
    scope: Scope,
    policy: DatasetPolicy,
    actor: Actor,
    report: ReportProgress = _say_nothing,
    grounding: Grounding | None = None,
) -> Dataset:
    """Make a dataset of what is stored now, or find the one that was made of the same before.

    `grounding` looks up what answers stand on. `report(done, total)` counts conversations, from the event loop. Where
    somebody is erased meanwhile it begins again, as their words may have been read already.
    Raises `NotAllowed` below the role trainer, `Conflict` if that goes on.
    """
    actor.check("trainer")
    for _ in range(MAX_BUILDS):
        try:
            return await _build_once(scope, policy, actor, report, grounding)
        except datasets.NoSuchDraft:
            continue
    raise Conflict("People were erased again and again while the dataset was being made. Build it once that is over.")


async def _build_once(
    scope: Scope, policy: DatasetPolicy, actor: Actor, report: ReportProgress, grounding: Grounding | None
) -> Dataset:
    """Raises `NoSuchDraft` if somebody is erased meanwhile."""
    after_erasures = await scope.read(erasure.how_many)
    builder = Builder(policy)
    total = await scope.read(dataset_sources.count_conversations)
    done, after = 0, ""
    report(0, total)
    while True:
        sources, looked_at, after = await scope.read(dataset_sources.sources_page, after, PAGE)
        if not looked_at:
            break
        offered = await asyncio.to_thread(_offered, sources, policy)
        if grounding is not None:
            offered = [(source, await stand_on_articles(some, grounding)) for source, some in offered]
        await asyncio.to_thread(builder.take, offered)
        done += looked_at
        report(min(done, total), total)
    examples, rejected, counts = await asyncio.to_thread(builder.finish)
    return await _store(scope, policy, actor, after_erasures, examples, rejected, counts)


def _offered(sources: Sequence[Source], policy: DatasetPolicy) -> list[tuple[Source, list[Offered]]]:
    return [(source, list(candidates_of(source, policy))) for source in sources]


async def _store(
    scope: Scope,
    policy: DatasetPolicy,
    actor: Actor,
    after_erasures: int,
    examples: Sequence[Example],
    rejected: Sequence[Rejected],
    counts: dict[str, Any],
) -> Dataset:
    """In pieces, so that chats need not wait long for their turn to write. Nobody sees it before it is whole."""
    sha256 = manifest_sha256(examples)
    known = await scope.read(datasets.find_by_sha256, sha256)
    if known is not None:
        return known
    settings = dataclasses.asdict(policy)
    draft_id = await scope.write(datasets.begin, settings, actor.name, after_erasures)
    try:
        rows: list[Example | Rejected] = [*examples, *rejected]
        for start in range(0, len(rows), WRITTEN_AT_ONCE):
            part = rows[start : start + WRITTEN_AT_ONCE]
            await scope.write(datasets.add, draft_id, start, part)
        return await scope.write(datasets.finish, draft_id, sha256, counts)
    except BaseException:
        await asyncio.shield(scope.write(datasets.abandon, draft_id))
        raise


def manifest_sha256(examples: Iterable[Example]) -> str:
    """Over the examples' hashes in order, each with its side of the split."""
    digest = hashlib.sha256()
    for one in examples:
        digest.update(f"{one.split} {one.sha256}\n".encode())
    return digest.hexdigest()


async def read_examples(
    scope: Scope, dataset_id: str, split: Split | None = None, *, consent: ConsentPolicy | None = None
) -> list[Example]:
    """All examples of one side of a dataset, or of both, in the manifest's order; less those erased since.

    With `consent`, for whoever is about to learn from them, also less those whose people have said no since.
    """
    refused = set() if consent is None else await refused_since(scope, dataset_id, consent)
    found: list[Example] = []
    after = -1
    while page := await scope.read(datasets.examples_page, dataset_id, split, after):
        found += [example for number, example in page if number not in refused]
        after = page[-1][0]
    return found


async def refused_since(scope: Scope, dataset_id: str, consent: ConsentPolicy) -> set[int]:
    """Numbers of a dataset's examples that nobody may learn from any more, though their words are still there."""
    said = await scope.read(datasets.consent_now, dataset_id)
    return {number for number, one in said.items() if not may_learn(consent, one.person, one.conversation)}


async def read_rejected(scope: Scope, dataset_id: str) -> list[Rejected]:
    """All that was looked at and left out."""
    found: list[Rejected] = []
    after = -1
    while page := await scope.read(datasets.rejected_page, dataset_id, after):
        found += [one for _, one in page]
        after = page[-1][0]
    return found


async def find_dataset(scope: Scope, which: str = "") -> Dataset:
    """The dataset whose id or hash begins with `which`; the newest without. Raises `NotFound` and `InvalidInput`."""
    known = await scope.read(datasets.list_all)
    if not known:
        raise NotFound("There is no dataset yet.", hint="build_dataset")
    if not which:
        return known[0]
    found = [one for one in known if which in (one.id, one.sha256)] or [
        one for one in known if one.id.startswith(which) or one.sha256.startswith(which)
    ]
    if not found:
        raise NotFound(f'There is no dataset "{which}".', hint="list_datasets")
    if len(found) > 1:
        raise InvalidInput(f'"{which}" is the beginning of {len(found)} datasets; write more of it.', field="which")
    return found[0]


async def differences(scope: Scope, old: Dataset, new: Dataset) -> tuple[list[Example], list[Example]]:
    """What came in with the newer of two datasets, and what went."""
    before = await read_examples(scope, old.id)
    after = await read_examples(scope, new.id)
    known, kept = {one.sha256 for one in before}, {one.sha256 for one in after}
    return [one for one in after if one.sha256 not in known], [one for one in before if one.sha256 not in kept]


class Builder:
    """Takes conversations page by page, and makes the examples once all have been seen. Not for the event loop."""

    def __init__(self, policy: DatasetPolicy) -> None:
        self._policy = policy
        self._finder = PersonalDataFinder(policy.regions)
        self._candidates: list[Candidate] = []
        self._rejected: list[Rejected] = []

    def take(self, offered: Iterable[tuple[Source, Sequence[Offered]]]) -> None:
        """Collect what conversations offer, redacted."""
        for source, some in offered:
            self._rejected += [one for one in some if isinstance(one, Rejected)]
            self._redact(source, [one for one in some if isinstance(one, Candidate)])

    def finish(self) -> tuple[list[Example], list[Rejected], dict[str, Any]]:
        """The examples in the manifest's order, what was left out, and counts of both."""
        kept = self._founded(self._candidates)
        kept = self._without_floods(kept)
        kept = self._without_duplicates(kept)
        kept = self._capped(kept)
        train, held_out = split(kept, self._policy)
        train, held_out, beyond = take_rows(train, held_out, self._policy)
        self._rejected += [one.left_out("more than the wanted number of rows") for one in beyond]
        train = self._apart_from(train, held_out)
        examples = [_example(one, "train") for one in in_order(train)]
        examples += [_example(one, "held_out") for one in in_order(held_out)]
        self._rejected.sort(key=lambda one: (one.because, one.conversation_id, one.message_id, one.kind))
        return examples, self._rejected, count(examples, self._rejected, train + held_out)

    def _redact(self, source: Source, offered: Sequence[Candidate]) -> None:
        """Merged as the model sees them, so that nothing hides on the border of two messages."""
        redactor = Redactor(self._finder, [one.display_name for one in source.people.values() if one.display_name])
        redactor.learn_names(one.message.text for one in source.messages)
        seen: dict[str, str] = {}

        def clean(text: str) -> str:
            if text not in seen:
                seen[text] = redactor.redact(text)
            return seen[text]

        leftover: dict[str, str | None] = {}
        for one in offered:
            made = with_texts(one, clean)
            texts = texts_of(made)
            for text in texts:
                if text not in leftover:
                    leftover[text] = redactor.leftover(text)
            left = next((kind for text in texts if (kind := leftover[text])), None)
            if left is None:
                self._candidates.append(made)
            else:
                self._rejected.append(made.left_out(f"personal data is left: {left}"))

    def _founded(self, found: list[Candidate]) -> list[Candidate]:
        if not self._policy.drop_unfounded:
            return found
        return self._keep(found, lambda one: not is_unfounded(one), "numbers or names that stand nowhere before")

    def _without_floods(self, found: list[Candidate]) -> list[Candidate]:
        """Without what one person said too often: votes within an hour, or the same answer over and over.

        Corrections on trusted channels are work, and may come fast.
        """
        by_person: dict[str, list[Candidate]] = defaultdict(list)
        for one in found:
            if one.person_id is not None and one.is_vote:
                by_person[one.person_id].append(one)
        floods: set[int] = set()
        for theirs in by_person.values():
            fast = [one for one in theirs if one.source == "thumb" or not one.is_trusted]
            floods |= {id(one) for one in self._bursts(fast)} | {id(one) for one in self._repeated(theirs)}
        return self._keep(found, lambda one: id(one) not in floods, "a flood by one person")

    def _bursts(self, theirs: list[Candidate]) -> Iterable[Candidate]:
        theirs = sorted(theirs, key=lambda one: one.at)
        first = 0
        flooded: set[int] = set()
        for last in range(len(theirs)):
            while theirs[last].at - theirs[first].at > HOUR_MS:
                first += 1
            voted_on = {one.message_id for one in theirs[first : last + 1][-self._policy.max_votes_per_hour * 3 :]}
            if len(voted_on) > self._policy.max_votes_per_hour:
                flooded |= set(range(first, last + 1))
        return [theirs[place] for place in flooded]

    def _repeated(self, theirs: list[Candidate]) -> Iterable[Candidate]:
        by_answer: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
        for one in theirs:
            if one.source == "correction":
                by_answer[one.kind, normal_hash(one.chosen)].append(one)
        return [one for same in by_answer.values() if len(same) > self._policy.max_same_answer for one in same]

    def _capped(self, found: list[Candidate]) -> list[Candidate]:
        """The newest of each person on a channel that is not trusted."""
        most = self._policy.max_per_person
        if not most:
            return found
        counted: Counter[str] = Counter()
        over: set[int] = set()
        for one in sorted(found, key=lambda one: (-one.at, _sha256(one))):
            if one.person_id is not None and not one.is_trusted:
                counted[one.person_id] += 1
                if counted[one.person_id] > most:
                    over.add(id(one))
        return self._keep(found, lambda one: id(one) not in over, TOO_MANY)

    def _without_duplicates(self, found: list[Candidate]) -> list[Candidate]:
        """Without what is said already, in the same words or nearly. Ratings of both kinds are looked at apart."""
        exact: set[str] = set()
        near: dict[str, NearDuplicates] = defaultdict(lambda: NearDuplicates(self._policy.near_duplicate))
        doubled: dict[int, str] = {}
        for one in sorted(found, key=lambda one: (_BEST_FIRST[one.source], _sha256(one))):
            group = f"{one.kind} {one.good}"
            words = normal_hash(group, *texts_of(one))
            if words in exact:
                doubled[id(one)] = "the same as another"
                continue
            exact.add(words)
            if not near[group].add(_said(one), _told(one)):
                doubled[id(one)] = "nearly the same as another"
        self._rejected += [one.left_out(doubled[id(one)]) for one in found if id(one) in doubled]
        return [one for one in found if id(one) not in doubled]

    def _apart_from(self, train: list[Candidate], held_out: list[Candidate]) -> list[Candidate]:
        """Without what is nearly the same as something held out, of whatever kind."""
        unseen = NearDuplicates(self._policy.near_duplicate)
        for one in held_out:
            unseen.add(_question_and_answer(one))
        return self._keep(train, lambda one: not unseen.find(_question_and_answer(one)), "nearly the same is held out")

    def _keep(self, found: list[Candidate], is_kept: Callable[[Candidate], bool], because: str) -> list[Candidate]:
        kept = []
        for one in found:
            if is_kept(one):
                kept.append(one)
            else:
                self._rejected.append(one.left_out(because))
        return kept


def _question_and_answer(one: Candidate) -> str:
    return f"{one.messages[-1].content}\n{one.chosen}"


def _said(one: Candidate) -> str:
    """What two examples are compared by: question and answers."""
    return "\n".join([one.messages[-1].content, one.chosen, one.rejected or ""])


def _told(one: Candidate) -> str:
    """The instructions, or the notes that an answer comes from: told other things, the same words mean another."""
    return "\n".join([*(each.content for each in one.messages if each.role == "system"), *map(quote, one.passages)])


def _sha256(one: Candidate) -> str:
    return _example(one, "train").sha256


def _example(one: Candidate, side: Split) -> Example:
    messages = tuple({"role": each.role, "content": each.content} for each in one.messages)
    return Example(
        one.kind,
        one.source,
        side,
        one.conversation_id,
        one.message_id,
        one.person_id,
        messages,
        one.chosen,
        one.rejected,
        one.good,
        one.passages,
    )


def count(examples: Sequence[Example], rejected: Sequence[Rejected], kept: Sequence[Candidate]) -> dict[str, Any]:
    """How many of each kind, source, side and reason; how long they are; how many answers were looked up."""
    thumbs = [one for one in examples if one.kind == "thumb"]
    return {
        "examples": len(examples),
        "kinds": dict(Counter(one.kind for one in examples)),
        "sources": dict(Counter(one.source for one in examples)),
        "splits": {side: dict(Counter(one.kind for one in examples if one.split == side)) for side in _SIDES},
        "good": sum(one.good is True for one in thumbs),
        "bad": sum(one.good is False for one in thumbs),
        "people": len({one.person_id for one in examples if one.person_id}),
        "conversations": len({one.conversation_id for one in examples}),
        "with_articles": sum(bool(one.passages) for one in examples),
        "unfounded": sum(map(is_unfounded, kept)),
        "answer_chars": _histogram(len(one.chosen) for one in examples),
        "prompt_chars": _histogram(sum(len(each["content"]) for each in one.messages) for one in examples),
        "rejected": dict(Counter(one.because for one in rejected)),
    }


_SIDES: tuple[Split, ...] = ("train", "held_out")


def _histogram(lengths: Iterable[int]) -> dict[str, int]:
    """How many are up to each length; the last is longer than all."""
    counted = Counter(next((str(most) for most in _LENGTHS if length <= most), "longer") for length in lengths)
    return {name: counted[name] for name in (*map(str, _LENGTHS), "longer")}
