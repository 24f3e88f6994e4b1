"""Dataset builds: select, redact, deduplicate, cap and split candidates.

The same stored conversations give the same dataset, named by a hash of its content. A dataset may be too small or
one-sided: its counts show that, and the training refuses it.
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
# Attempts at a build, which starts over when a person is erased meanwhile.
MAX_BUILDS = 5
TOO_MANY = "more than one person from outside may give"
# Of near duplicates the candidate of the best source is kept.
_BEST_FIRST = {"correction": 0, "approved": 1, "agent": 2, "import": 3, "thumb": 4}
_LENGTHS = (50, 100, 200, 400, 800, 1_600)

ReportProgress = Callable[[int, int], None]


def _say_nothing(done: int, total: int) -> None:
    """Ignore the progress."""


async def build_dataset(
    scope: Scope,
    policy: DatasetPolicy,
    actor: Actor,
    report: ReportProgress = _say_nothing,
    grounding: Grounding | None = None,
) -> Dataset:
    """Build a dataset of the stored conversations, or return the known one with the same content.

    `grounding` looks up the passages behind answers. `report(done, total)` counts conversations, in the event loop.
    The build starts over if a person is erased meanwhile, as their words may have been read already. Raises
    `NotAllowed` below the role trainer, and `Conflict` after `MAX_BUILDS` attempts.
    """
    actor.check("trainer")
    for _ in range(MAX_BUILDS):
        try:
            return await _build_once(scope, policy, actor, report, grounding)
        except datasets.NoSuchDraft:
            continue
    raise Conflict("People were erased several times while the dataset was built. Build it again later.")


async def _build_once(
    scope: Scope, policy: DatasetPolicy, actor: Actor, report: ReportProgress, grounding: Grounding | None
) -> Dataset:
    """Build a dataset. Raises `NoSuchDraft` if a person is erased meanwhile."""
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
    """Write a draft in small transactions, so that chats can write between them, and publish it when it is complete."""
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
    """Hash the examples' hashes in their order, each with its side of the split."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.split} {example.sha256}\n".encode())
    return digest.hexdigest()


async def read_examples(
    scope: Scope, dataset_id: str, split: Split | None = None, *, consent: ConsentPolicy | None = None
) -> list[Example]:
    """Return the examples of a side of a dataset, or of both, in the manifest's order, less those erased since.

    With `consent`, which a training must give, also leave out those whose authors have refused since.
    """
    refused = set() if consent is None else await refused_since(scope, dataset_id, consent)
    found: list[Example] = []
    after = -1
    while page := await scope.read(datasets.examples_page, dataset_id, split, after):
        found += [example for number, example in page if number not in refused]
        after = page[-1][0]
    return found


async def refused_since(scope: Scope, dataset_id: str, consent: ConsentPolicy) -> set[int]:
    """Return the numbers of the dataset's examples whose authors have refused since, though their words are kept."""
    said = await scope.read(datasets.consent_now, dataset_id)
    return {number for number, now in said.items() if not may_learn(consent, now.person, now.conversation)}


async def read_rejected(scope: Scope, dataset_id: str) -> list[Rejected]:
    """Return all rejections of a dataset."""
    found: list[Rejected] = []
    after = -1
    while page := await scope.read(datasets.rejected_page, dataset_id, after):
        found += [rejected for _, rejected in page]
        after = page[-1][0]
    return found


async def find_dataset(scope: Scope, which: str = "") -> Dataset:
    """Return the dataset whose id or hash begins with `which`, by default the newest.

    Raises `NotFound`, and `InvalidInput` if several begin so.
    """
    known = await scope.read(datasets.list_all)
    if not known:
        raise NotFound("There is no dataset yet.", hint="build_dataset")
    if not which:
        return known[0]
    found = [dataset for dataset in known if which in (dataset.id, dataset.sha256)] or [
        dataset for dataset in known if dataset.id.startswith(which) or dataset.sha256.startswith(which)
    ]
    if not found:
        raise NotFound(f'There is no dataset "{which}".', hint="list_datasets")
    if len(found) > 1:
        raise InvalidInput(f'"{which}" is the beginning of {len(found)} datasets; write more of it.', field="which")
    return found[0]


async def differences(scope: Scope, old: Dataset, new: Dataset) -> tuple[list[Example], list[Example]]:
    """Return the examples that only `new` has, and those that only `old` has."""
    before = await read_examples(scope, old.id)
    after = await read_examples(scope, new.id)
    known, kept = {example.sha256 for example in before}, {example.sha256 for example in after}
    added = [example for example in after if example.sha256 not in known]
    return added, [example for example in before if example.sha256 not in kept]


class Builder:
    """Builder that takes conversations page by page, then makes the examples. Not for the event loop."""

    def __init__(self, policy: DatasetPolicy) -> None:
        self._policy = policy
        self._finder = PersonalDataFinder(policy.regions)
        self._candidates: list[Candidate] = []
        self._rejected: list[Rejected] = []

    def take(self, offered: Iterable[tuple[Source, Sequence[Offered]]]) -> None:
        """Redact and collect the candidates of conversations, and collect their rejections."""
        for source, some in offered:
            self._rejected += [offer for offer in some if isinstance(offer, Rejected)]
            self._redact(source, [offer for offer in some if isinstance(offer, Candidate)])

    def finish(self) -> tuple[list[Example], list[Rejected], dict[str, Any]]:
        """Return the examples in the manifest's order, the rejections, and counts of both."""
        kept = self._founded(self._candidates)
        kept = self._without_floods(kept)
        kept = self._without_duplicates(kept)
        kept = self._capped(kept)
        train, held_out = split(kept, self._policy)
        train, held_out, beyond = take_rows(train, held_out, self._policy)
        self._rejected += [candidate.left_out("more than the wanted number of rows") for candidate in beyond]
        train = self._apart_from(train, held_out)
        examples = [_example(candidate, "train") for candidate in in_order(train)]
        examples += [_example(candidate, "held_out") for candidate in in_order(held_out)]
        self._rejected.sort(key=lambda left: (left.because, left.conversation_id, left.message_id, left.kind))
        return examples, self._rejected, count(examples, self._rejected, train + held_out)

    def _redact(self, source: Source, offered: Sequence[Candidate]) -> None:
        """Redact texts as the model reads them, with merged messages: personal data may span two messages."""
        names = [person.display_name for person in source.people.values() if person.display_name]
        redactor = Redactor(self._finder, names)
        redactor.learn_names(said.message.text for said in source.messages)
        seen: dict[str, str] = {}

        def clean(text: str) -> str:
            if text not in seen:
                seen[text] = redactor.redact(text)
            return seen[text]

        leftover: dict[str, str | None] = {}
        for candidate in offered:
            made = with_texts(candidate, clean)
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
        return self._keep(found, lambda each: not is_unfounded(each), "numbers or names that stand nowhere before")

    def _without_floods(self, found: list[Candidate]) -> list[Candidate]:
        """Reject floods by a person: too many votes within an hour, or the same answer many times.

        Corrections on trusted channels are exempt from the hourly limit, because they are work and may come fast.
        """
        by_person: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in found:
            if candidate.person_id is not None and candidate.is_vote:
                by_person[candidate.person_id].append(candidate)
        floods: set[int] = set()
        for theirs in by_person.values():
            fast = [vote for vote in theirs if vote.source == "thumb" or not vote.is_trusted]
            floods |= {id(vote) for vote in self._bursts(fast)} | {id(vote) for vote in self._repeated(theirs)}
        return self._keep(found, lambda each: id(each) not in floods, "a flood by one person")

    def _bursts(self, theirs: list[Candidate]) -> Iterable[Candidate]:
        theirs = sorted(theirs, key=lambda vote: vote.at)
        first = 0
        flooded: set[int] = set()
        for last in range(len(theirs)):
            while theirs[last].at - theirs[first].at > HOUR_MS:
                first += 1
            voted_on = {vote.message_id for vote in theirs[first : last + 1][-self._policy.max_votes_per_hour * 3 :]}
            if len(voted_on) > self._policy.max_votes_per_hour:
                flooded |= set(range(first, last + 1))
        return [theirs[place] for place in flooded]

    def _repeated(self, theirs: list[Candidate]) -> Iterable[Candidate]:
        by_answer: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
        for vote in theirs:
            if vote.source == "correction":
                by_answer[vote.kind, normal_hash(vote.chosen)].append(vote)
        return [vote for same in by_answer.values() if len(same) > self._policy.max_same_answer for vote in same]

    def _capped(self, found: list[Candidate]) -> list[Candidate]:
        """Keep the newest candidates of each person on channels that are not trusted, up to `max_per_person`."""
        most = self._policy.max_per_person
        if not most:
            return found
        counted: Counter[str] = Counter()
        over: set[int] = set()
        for candidate in sorted(found, key=lambda each: (-each.at, _sha256(each))):
            if candidate.person_id is not None and not candidate.is_trusted:
                counted[candidate.person_id] += 1
                if counted[candidate.person_id] > most:
                    over.add(id(candidate))
        return self._keep(found, lambda each: id(each) not in over, TOO_MANY)

    def _without_duplicates(self, found: list[Candidate]) -> list[Candidate]:
        """Reject exact and near duplicates. Thumbs up and thumbs down are compared apart."""
        exact: set[str] = set()
        near: dict[str, NearDuplicates] = defaultdict(lambda: NearDuplicates(self._policy.near_duplicate))
        doubled: dict[int, str] = {}
        for candidate in sorted(found, key=lambda each: (_BEST_FIRST[each.source], _sha256(each))):
            group = f"{candidate.kind} {candidate.good}"
            words = normal_hash(group, *texts_of(candidate))
            if words in exact:
                doubled[id(candidate)] = "the same as another"
                continue
            exact.add(words)
            if not near[group].add(_said(candidate), _told(candidate)):
                doubled[id(candidate)] = "nearly the same as another"
        self._rejected += [each.left_out(doubled[id(each)]) for each in found if id(each) in doubled]
        return [each for each in found if id(each) not in doubled]

    def _apart_from(self, train: list[Candidate], held_out: list[Candidate]) -> list[Candidate]:
        """Reject near duplicates of held-out candidates, of any kind, so that the evaluation stays honest."""
        unseen = NearDuplicates(self._policy.near_duplicate)
        for candidate in held_out:
            unseen.add(_question_and_answer(candidate))
        because = "nearly the same is held out"
        return self._keep(train, lambda each: not unseen.find(_question_and_answer(each)), because)

    def _keep(self, found: list[Candidate], is_kept: Callable[[Candidate], bool], because: str) -> list[Candidate]:
        kept = []
        for candidate in found:
            if is_kept(candidate):
                kept.append(candidate)
            else:
                self._rejected.append(candidate.left_out(because))
        return kept


def _question_and_answer(candidate: Candidate) -> str:
    return f"{candidate.messages[-1].content}\n{candidate.chosen}"


def _said(candidate: Candidate) -> str:
    """Return the question and the answers, by which near duplicates are found."""
    return "\n".join([candidate.messages[-1].content, candidate.chosen, candidate.rejected or ""])


def _told(candidate: Candidate) -> str:
    """Return system prompt and passages: with others, the same answer is another example."""
    instructions = [message.content for message in candidate.messages if message.role == "system"]
    return "\n".join([*instructions, *map(quote, candidate.passages)])


def _sha256(candidate: Candidate) -> str:
    return _example(candidate, "train").sha256


def _example(made: Candidate, side: Split) -> Example:
    messages = tuple({"role": message.role, "content": message.content} for message in made.messages)
    return Example(
        made.kind,
        made.source,
        side,
        made.conversation_id,
        made.message_id,
        made.person_id,
        messages,
        made.chosen,
        made.rejected,
        made.good,
        made.passages,
    )


def count(examples: Sequence[Example], rejected: Sequence[Rejected], kept: Sequence[Candidate]) -> dict[str, Any]:
    """Count examples by kind, source, side and length, rejections by reason, and answers with unfounded facts."""
    thumbs = [example for example in examples if example.kind == "thumb"]
    return {
        "examples": len(examples),
        "kinds": dict(Counter(example.kind for example in examples)),
        "sources": dict(Counter(example.source for example in examples)),
        "splits": {side: dict(Counter(each.kind for each in examples if each.split == side)) for side in _SIDES},
        "good": sum(thumb.good is True for thumb in thumbs),
        "bad": sum(thumb.good is False for thumb in thumbs),
        "people": len({example.person_id for example in examples if example.person_id}),
        "conversations": len({example.conversation_id for example in examples}),
        "with_articles": sum(bool(example.passages) for example in examples),
        "unfounded": sum(map(is_unfounded, kept)),
        "answer_chars": _histogram(len(example.chosen) for example in examples),
        "prompt_chars": _histogram(sum(len(turn["content"]) for turn in each.messages) for each in examples),
        "rejected": dict(Counter(left.because for left in rejected)),
    }


_SIDES: tuple[Split, ...] = ("train", "held_out")


def _histogram(lengths: Iterable[int]) -> dict[str, int]:
    """Count lengths up to each limit of `_LENGTHS`; the last count is of greater lengths."""
    counted = Counter(next((str(most) for most in _LENGTHS if length <= most), "longer") for length in lengths)
    return {name: counted[name] for name in (*map(str, _LENGTHS), "longer")}
