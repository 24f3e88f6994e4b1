"""What a conversation offers to learn: answers, pairs and thumbs, and what was looked at and left out, with the reason.

Knows: whose word counts for what, and what the model would have seen. Does not know: personal data, duplicates, splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rapidfuzz import fuzz

from bot.generation.port import ChatMessage
from bot.generation.prompt import (
    UNSEEN_ORIGINS,
    UNSEEN_STATES,
    merge_same_role,
    quote,
    split_turns,
    to_chat,
    without_failures,
    without_marks,
)
from bot.privacy.learning_consent import Policy, may_learn
from bot.settings import Settings
from storage.dataset_sources import Opinion, Said, Source
from storage.learning_values import ExampleKind, Rejected
from storage.values import Quotation, SeenPassage


@dataclass(frozen=True, slots=True)
class DatasetPolicy:
    """What goes into a dataset. Lengths are characters.

    `rows` is the most examples to train on, the newest where `newest`, else a stable sample; None takes all.
    `max_per_person` is against floods by customers: it holds for people on channels that are not trusted, whatever
    staff made of their chats; 0 sets no limit. Staff, people on trusted channels and imports give as much as they
    like. `trivial_edit` is the similarity from which on an edit teaches no preference.
    """

    consent: Policy = "opt-out"
    trusted_channels: tuple[str, ...] = ("console", "slack", "api")
    regions: tuple[str, ...] = ("US", "GB", "DE", "CN")
    rows: int | None = None
    newest: bool = True
    max_per_person: int = 20
    max_votes_per_hour: int = 30
    max_same_answer: int = 5
    min_chars: int = 2
    max_answer_chars: int = 4_000
    max_prompt_chars: int = 12_000
    trivial_edit: float = 0.95
    near_duplicate: float = 0.8
    drop_unfounded: bool = False
    held_out_share: float = 0.1
    min_held_out: int = 20
    max_held_out: int = 500


def policy_from(settings: Settings, **chosen: Any) -> DatasetPolicy:
    """What this installation has decided, and what somebody has `chosen` for one dataset."""
    return DatasetPolicy(
        consent=settings.learning_consent,
        trusted_channels=settings.trusted_channels,
        regions=settings.regions,
        **{name: value for name, value in chosen.items() if value is not None},
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that may become an example. `at` is when the word that makes it one was given.

    `people` are all whose words it holds; `person_id` is the one it counts for. `is_vote`: somebody's vote here made it
    one, not staff and not a file. `is_trusted`: the operator knows who may speak on its channel, or gave the file.
    `seen` is what the bot had looked up, None where it did not answer; `passages` is what the model will read.
    `told_of` are the articles that the bot's replies before it stood on, which it may repeat; `tells_curated`: one of
    these, or it, was somebody's own answer.
    """

    kind: ExampleKind
    source: str
    conversation_id: str
    message_id: str
    person_id: str | None
    people: tuple[str, ...]
    split_group: str | None
    is_vote: bool
    is_trusted: bool
    at: int
    messages: tuple[ChatMessage, ...]
    chosen: str
    rejected: str | None = None
    good: bool | None = None
    channel: str = ""
    seen: tuple[SeenPassage, ...] | None = None
    passages: tuple[Quotation, ...] = ()
    told_of: tuple[SeenPassage, ...] = ()
    tells_curated: bool = False

    def left_out(self, because: str) -> Rejected:
        return Rejected(self.kind, self.source, self.conversation_id, self.message_id, self.person_id, because)


Offered = Candidate | Rejected


def candidates_of(source: Source, policy: DatasetPolicy) -> Iterator[Offered]:
    """All that a conversation offers, in the order in which it was said."""
    yield from _Conversation(source, policy).walk()


class _Conversation:
    def __init__(self, source: Source, policy: DatasetPolicy) -> None:
        self._source = source
        self._policy = policy
        self._shown = [one for one in source.messages if not one.is_superseded]

    def walk(self) -> Iterator[Offered]:
        for one in self._source.messages:
            author = one.message.author
            if author == "agent" and not one.is_superseded:
                yield from self._agents(one)
            elif author == "bot" and (one.message.id in self._source.reviews or one.message.id in self._source.votes):
                yield from self._bots(one)

    # --- what staff wrote ---

    def _agents(self, said: Said) -> Iterator[Offered]:
        place = self._shown.index(said)
        if place and self._shown[place - 1].message.author == "agent":
            return  # told together with the one before
        run = [said]
        for following in self._shown[place + 1 :]:
            if following.message.author != "agent":
                break
            run.append(following)
        text = "\n\n".join(one.message.text for one in run if one.message.text.strip())
        source = "import" if self._source.is_imported else "agent"
        draft = next((one.draft for one in run if one.draft), None)
        yield from self._answer(said, source, text, None, draft, said.message.created_at)

    # --- what people thought of the bot's replies ---

    def _bots(self, said: Said) -> Iterator[Offered]:
        review, bots_words = self._source.reviews.get(said.message.id), without_marks(said.message)
        if review is None:
            yield from self._voted(said)
        elif review.decision == "exclude":
            yield self._left_out("answer", "approved", said, None, "excluded by a review")
        elif review.decision == "approve":
            yield from self._answer(said, "approved", bots_words, None, None, review.created_at)
        else:
            better = review.better or ""
            proposed_by = self._who_proposed(said, better)
            yield from self._answer(
                said, "correction", better, proposed_by, without_marks(said.message), review.created_at
            )

    def _who_proposed(self, said: Said, better: str) -> Opinion | None:
        """Whose words staff took over as they were: they stay that person's."""
        votes = self._source.votes.get(said.message.id, ())
        return next((one for one in reversed(votes) if one.better and one.better.strip() == better), None)

    def _voted(self, said: Said) -> Iterator[Offered]:
        votes = self._source.votes[said.message.id]
        newest, bots_words = votes[-1], without_marks(said.message)
        if len({one.value for one in votes}) > 1:
            yield self._left_out("thumb", "thumb", said, newest, "contradictory votes")
            return
        betters = [one for one in votes if one.better and one.better.strip()]
        for older in betters[:-1]:
            yield self._left_out("answer", "correction", said, older, "a newer correction of the same reply")
        if betters and self._is_trusted():
            yield from self._answer(
                said,
                "correction",
                betters[-1].better or "",
                betters[-1],
                without_marks(said.message),
                betters[-1].created_at,
            )
            return
        if betters:
            yield self._left_out("answer", "correction", said, betters[-1], "a correction that waits for a review")
        if said.message.origin not in (None, "model"):
            yield self._left_out("thumb", "thumb", said, newest, "not the model's own words")
            return
        if said.message.reply_state not in (None, "answered"):
            yield self._left_out("thumb", "thumb", said, newest, "the reply was not completed")
            return
        yield self._candidate("thumb", "thumb", said, newest, bots_words, newest.created_at, good=newest.value > 0)

    def _is_trusted(self) -> bool:
        return self._source.is_imported or self._source.channel in self._policy.trusted_channels

    # --- the forms ---

    def _answer(
        self, said: Said, source: str, text: str, voter: Opinion | None, instead_of: str | None, at: int
    ) -> Iterator[Offered]:
        """An answer, and a pair where it took the place of another that differs in what it says."""
        yield self._candidate("answer", source, said, voter, text, at)
        is_apology = said.message.reply_state in UNSEEN_STATES or said.message.origin in UNSEEN_ORIGINS
        if instead_of is None or not instead_of.strip() or is_apology:
            return
        if is_trivial_edit(instead_of, text, self._policy.trivial_edit):
            yield self._left_out("pair", source, said, voter, "a trivial edit")
        else:
            yield self._candidate("pair", source, said, voter, text, at, rejected=instead_of.strip())

    def _candidate(
        self,
        kind: ExampleKind,
        source: str,
        said: Said,
        voter: Opinion | None,
        chosen: str,
        at: int,
        *,
        rejected: str | None = None,
        good: bool | None = None,
    ) -> Offered:
        before = self._before(said)
        prompt = self._prompt(before)
        people = self._people(before, voter)
        owner = voter.person_id if voter else self._source.person_id or (people[-1] if people else None)
        made = Candidate(
            kind,
            source,
            self._source.id,
            said.message.id,
            owner,
            people,
            self._source.split_group,
            self._is_vote(said, voter),
            self._is_trusted(),
            at,
            tuple(prompt),
            chosen.strip(),
            rejected,
            good,
            self._source.channel,
            self._seen(said),
            told_of=tuple(each for one in before if one.message.origin not in UNSEEN_ORIGINS for each in one.passages),
            tells_curated=any(one.message.origin == "curated" for one in (*before, said)),
        )
        because = self._refusal(said, before) or self._unfit(made)
        return made.left_out(because) if because else made

    def _seen(self, said: Said) -> tuple[SeenPassage, ...] | None:
        """None where nothing had been found, too: what was looked up then is only related."""
        is_bots = said.message.author == "bot" and not self._source.is_imported
        return said.passages if is_bots and said.message.origin not in UNSEEN_ORIGINS else None

    def _is_vote(self, said: Said, voter: Opinion | None) -> bool:
        return voter is not None and not self._source.is_imported and said.message.id not in self._source.reviews

    def _left_out(self, kind: ExampleKind, source: str, said: Said, voter: Opinion | None, because: str) -> Rejected:
        owner = voter.person_id if voter else self._source.person_id
        return Rejected(kind, source, self._source.id, said.message.id, owner, because)

    # --- what is in sight, and whether it may be used ---

    def _before(self, said: Said) -> list[Said]:
        """What the model might see when it answered; a later "/new" tells nothing of how far it saw back."""
        place = (said.message.seq, said.message.author != "person")
        from_seq = self._source.context_from_seq
        first = from_seq if said.message.seq >= from_seq else 0
        return [
            one
            for one in self._shown[: self._place_of(said)]
            if one.message.seq >= first
            and (one.message.seq, one.message.author != "person") <= place
            and one is not said
        ]

    def _place_of(self, said: Said) -> int:
        """How many of the messages in sight come before it: one that was set aside is not among them itself."""
        if not said.is_superseded:
            return self._shown.index(said)
        return sum(
            one.message.seq < said.message.seq
            or (one.message.seq == said.message.seq and one.message.author == "person")
            for one in self._shown
        )

    def _prompt(self, before: Sequence[Said]) -> list[ChatMessage]:
        answered = len(before)
        while answered and before[answered - 1].message.author == "person":
            answered -= 1
        asked = to_chat([one.message for one in before[answered:]])
        turns = split_turns(to_chat(without_failures([one.message for one in before[:answered]])))
        length = sum(len(one.content) for one in asked)
        kept: list[ChatMessage] = []
        for turn in reversed(turns):
            length += sum(len(one.content) for one in turn)
            if length > self._policy.max_prompt_chars:
                break
            kept = [*turn, *kept]
        told = (self._source.instructions or "").strip()
        return [*([ChatMessage("system", told)] if told else []), *merge_same_role([*kept, *asked])]

    def _people(self, before: Sequence[Said], voter: Opinion | None) -> tuple[str, ...]:
        spoke = [one.person_id for one in before if one.message.author == "person"]
        found = [*spoke, self._source.person_id, voter.person_id if voter else None]
        return tuple(dict.fromkeys(one for one in found if one is not None))

    def _refusal(self, said: Said, before: Sequence[Said]) -> str | None:
        if self._question_was_changed(said):
            return "the question was changed later"
        if not before or before[-1].message.author != "person":
            return "no question before it"
        return None

    def _question_was_changed(self, said: Said) -> bool:
        if not said.is_superseded or said.first_seq is None:
            return False
        asked = range(said.first_seq, said.message.seq + 1)
        return any(
            one.is_superseded and one.message.author == "person" and one.message.seq in asked
            for one in self._source.messages
        )

    def _unfit(self, made: Candidate) -> str | None:
        if not self._may_learn(made):
            return "not allowed by the person or for the conversation"
        if not made.messages or made.messages[-1].role != "user":
            return "no question before it"
        if len(made.messages[-1].content.strip()) < self._policy.min_chars:
            return "the question is too short"
        if sum(len(one.content) for one in made.messages) > self._policy.max_prompt_chars:
            return "the question is too long"
        if len(made.chosen) < self._policy.min_chars:
            return "the answer is too short"
        if max(len(made.chosen), len(made.rejected or "")) > self._policy.max_answer_chars:
            return "the answer is too long"
        return None

    def _may_learn(self, made: Candidate) -> bool:
        people = self._source.people
        said = [people[one].may_learn if one in people else None for one in made.people] or [None]
        return all(may_learn(self._policy.consent, one, self._source.may_learn) for one in said)


_NUMBERS = re.compile(r"\d+(?:[.,:]\d+)*")
_CAPITALISED = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}")


def is_trivial_edit(old: str, new: str, similarity: float) -> bool:
    """Whether two texts say the same in nearly the same words. Another number, or a "not", is never trivial."""
    numbers = [sorted(_NUMBERS.findall(one)) for one in (old, new)]
    words = [
        sorted(re.findall(r"\b(?:not?|never|without|cannot|\w+n't)\b|[不没无]", one.lower())) for one in (old, new)
    ]
    if numbers[0] != numbers[1] or words[0] != words[1]:
        return False
    return fuzz.ratio(" ".join(old.split()), " ".join(new.split())) >= similarity * 100


def is_unfounded(made: Candidate) -> bool:
    """Whether the answer has numbers or names that stand nowhere in the prompt: somebody had looked them up."""
    told = " ".join([*(one.content for one in made.messages), *map(quote, made.passages)])
    numbers = {one for one in _NUMBERS.findall(made.chosen) if len(one) > 1}
    if numbers - set(_NUMBERS.findall(told)):
        return True
    lower = told.lower()
    return any(name.lower() not in lower for name in _CAPITALISED.findall(made.chosen))


def texts_of(made: Candidate) -> list[str]:
    """All that would be learnt from or read."""
    quoted = [text for one in made.passages for text in (one.title, *one.headings, one.text)]
    return [*(one.content for one in made.messages), *quoted, made.chosen, made.rejected or ""]


def with_texts(made: Candidate, change: Callable[[str], str]) -> Candidate:
    """The same with other words, as after redaction."""

    def changed(one: Quotation) -> Quotation:
        return Quotation(change(one.title), tuple(map(change, one.headings)), change(one.text))

    return replace(
        made,
        messages=tuple(ChatMessage(one.role, change(one.content)) for one in made.messages),
        passages=tuple(map(changed, made.passages)),
        chosen=change(made.chosen),
        rejected=change(made.rejected) if made.rejected else made.rejected,
    )
