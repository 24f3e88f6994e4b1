"""Candidates for a dataset: answers, pairs and thumbs of a conversation.

Each signal (staff's answer, review, vote, import) becomes a candidate, or a rejection with its reason. A candidate's
prompt is the prompt that the model would have read.
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
    """Selection rules of a dataset. Lengths are characters.

    `rows` limits the examples to train on, to the newest if `newest`, else to a stable sample; None takes all.
    `max_per_person` limits people on channels that are not trusted, to stop floods by customers; 0 sets no limit, and
    staff, people on trusted channels and imports have none. An edit of at least the similarity `trivial_edit` teaches
    no preference.
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
    """Return the policy of the settings, with the `chosen` values in place of the defaults; None values are ignored."""
    return DatasetPolicy(
        consent=settings.learning_consent,
        trusted_channels=settings.trusted_channels,
        regions=settings.regions,
        **{name: value for name, value in chosen.items() if value is not None},
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible example. `at` is the time of the vote, review or message that makes it one.

    `people` are all authors of its words; `person_id` is the person it counts for. `is_vote`: it comes from a vote, not
    from staff or a file. `is_trusted`: its channel is trusted, or it was imported.
    `seen` are the passages that the bot had looked up, None if it did not answer; `passages` are those that the model
    will read. `told_of` are the passages behind earlier replies, which it may repeat; `tells_curated`: it or an
    earlier reply was a curated answer.
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
    """Yield the candidates and rejections of a conversation, in its order."""
    yield from _Conversation(source, policy).walk()


class _Conversation:
    def __init__(self, source: Source, policy: DatasetPolicy) -> None:
        self._source = source
        self._policy = policy
        self._shown = [said for said in source.messages if not said.is_superseded]

    def walk(self) -> Iterator[Offered]:
        for said in self._source.messages:
            author, message_id = said.message.author, said.message.id
            if author == "agent" and not said.is_superseded:
                yield from self._agents(said)
            elif author == "bot" and (message_id in self._source.reviews or message_id in self._source.votes):
                yield from self._bots(said)

    # --- answers of staff ---

    def _agents(self, said: Said) -> Iterator[Offered]:
        place = self._shown.index(said)
        if place and self._shown[place - 1].message.author == "agent":
            return  # part of the answer that began with the message before
        run = [said]
        for following in self._shown[place + 1 :]:
            if following.message.author != "agent":
                break
            run.append(following)
        text = "\n\n".join(part.message.text for part in run if part.message.text.strip())
        source = "import" if self._source.is_imported else "agent"
        draft = next((part.draft for part in run if part.draft), None)
        yield from self._answer(said, source, text, None, draft, said.message.created_at)

    # --- reviews of the bot's replies, and votes on them ---

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
        """Find the vote whose proposed answer staff took over unchanged: the words remain its author's."""
        votes = self._source.votes.get(said.message.id, ())
        return next((vote for vote in reversed(votes) if vote.better and vote.better.strip() == better), None)

    def _voted(self, said: Said) -> Iterator[Offered]:
        votes = self._source.votes[said.message.id]
        newest, bots_words = votes[-1], without_marks(said.message)
        if len({vote.value for vote in votes}) > 1:
            yield self._left_out("thumb", "thumb", said, newest, "contradictory votes")
            return
        betters = [vote for vote in votes if vote.better and vote.better.strip()]
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

    # --- candidates of each kind ---

    def _answer(
        self, said: Said, source: str, text: str, voter: Opinion | None, instead_of: str | None, at: int
    ) -> Iterator[Offered]:
        """Yield an answer, and a pair if it replaced an answer (`instead_of`) with another meaning."""
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
            told_of=tuple(
                passage
                for earlier in before
                if earlier.message.origin not in UNSEEN_ORIGINS
                for passage in earlier.passages
            ),
            tells_curated=any(each.message.origin == "curated" for each in (*before, said)),
        )
        because = self._refusal(said, before) or self._unfit(made)
        return made.left_out(because) if because else made

    def _seen(self, said: Said) -> tuple[SeenPassage, ...] | None:
        """Return the passages behind the bot's own reply, None for replies that no passage supports."""
        is_bots = said.message.author == "bot" and not self._source.is_imported
        return said.passages if is_bots and said.message.origin not in UNSEEN_ORIGINS else None

    def _is_vote(self, said: Said, voter: Opinion | None) -> bool:
        return voter is not None and not self._source.is_imported and said.message.id not in self._source.reviews

    def _left_out(self, kind: ExampleKind, source: str, said: Said, voter: Opinion | None, because: str) -> Rejected:
        owner = voter.person_id if voter else self._source.person_id
        return Rejected(kind, source, self._source.id, said.message.id, owner, because)

    # --- the prompt, and reasons for a rejection ---

    def _before(self, said: Said) -> list[Said]:
        """Return the messages that the model could see when it answered; a later "/new" does not shorten them."""
        place = (said.message.seq, said.message.author != "person")
        from_seq = self._source.context_from_seq
        first = from_seq if said.message.seq >= from_seq else 0
        return [
            earlier
            for earlier in self._shown[: self._place_of(said)]
            if earlier.message.seq >= first
            and (earlier.message.seq, earlier.message.author != "person") <= place
            and earlier is not said
        ]

    def _place_of(self, said: Said) -> int:
        """Count the shown messages before this message, which may be superseded and so not be shown itself."""
        if not said.is_superseded:
            return self._shown.index(said)
        return sum(
            shown.message.seq < said.message.seq
            or (shown.message.seq == said.message.seq and shown.message.author == "person")
            for shown in self._shown
        )

    def _prompt(self, before: Sequence[Said]) -> list[ChatMessage]:
        answered = len(before)
        while answered and before[answered - 1].message.author == "person":
            answered -= 1
        asked = to_chat([said.message for said in before[answered:]])
        turns = split_turns(to_chat(without_failures([said.message for said in before[:answered]])))
        length = sum(len(message.content) for message in asked)
        kept: list[ChatMessage] = []
        for turn in reversed(turns):
            length += sum(len(message.content) for message in turn)
            if length > self._policy.max_prompt_chars:
                break
            kept = [*turn, *kept]
        told = (self._source.instructions or "").strip()
        return [*([ChatMessage("system", told)] if told else []), *merge_same_role([*kept, *asked])]

    def _people(self, before: Sequence[Said], voter: Opinion | None) -> tuple[str, ...]:
        spoke = [said.person_id for said in before if said.message.author == "person"]
        found = [*spoke, self._source.person_id, voter.person_id if voter else None]
        return tuple(dict.fromkeys(person_id for person_id in found if person_id is not None))

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
            each.is_superseded and each.message.author == "person" and each.message.seq in asked
            for each in self._source.messages
        )

    def _unfit(self, made: Candidate) -> str | None:
        if not self._may_learn(made):
            return "not allowed by the person or for the conversation"
        if not made.messages or made.messages[-1].role != "user":
            return "no question before it"
        if len(made.messages[-1].content.strip()) < self._policy.min_chars:
            return "the question is too short"
        if sum(len(message.content) for message in made.messages) > self._policy.max_prompt_chars:
            return "the question is too long"
        if len(made.chosen) < self._policy.min_chars:
            return "the answer is too short"
        if max(len(made.chosen), len(made.rejected or "")) > self._policy.max_answer_chars:
            return "the answer is too long"
        return None

    def _may_learn(self, made: Candidate) -> bool:
        people = self._source.people
        said = [people[person_id].may_learn if person_id in people else None for person_id in made.people] or [None]
        return all(may_learn(self._policy.consent, consent, self._source.may_learn) for consent in said)


_NUMBERS = re.compile(r"\d+(?:[.,:]\d+)*")
_CAPITALISED = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}")


def is_trivial_edit(old: str, new: str, similarity: float) -> bool:
    """Return True if two texts are similar, with the same numbers and negations."""
    numbers = [sorted(_NUMBERS.findall(text)) for text in (old, new)]
    words = [
        sorted(re.findall(r"\b(?:not?|never|without|cannot|\w+n't)\b|[不没无]", text.lower())) for text in (old, new)
    ]
    if numbers[0] != numbers[1] or words[0] != words[1]:
        return False
    return fuzz.ratio(" ".join(old.split()), " ".join(new.split())) >= similarity * 100


def is_unfounded(made: Candidate) -> bool:
    """Return True if the answer has numbers or names that are not in the prompt: its author had looked them up."""
    told = " ".join([*(message.content for message in made.messages), *map(quote, made.passages)])
    numbers = {number for number in _NUMBERS.findall(made.chosen) if len(number) > 1}
    if numbers - set(_NUMBERS.findall(told)):
        return True
    lower = told.lower()
    return any(name.lower() not in lower for name in _CAPITALISED.findall(made.chosen))


def texts_of(made: Candidate) -> list[str]:
    """Return all texts of a candidate: messages, passages, answers."""
    quoted = [text for passage in made.passages for text in (passage.title, *passage.headings, passage.text)]
    return [*(message.content for message in made.messages), *quoted, made.chosen, made.rejected or ""]


def with_texts(made: Candidate, change: Callable[[str], str]) -> Candidate:
    """Return a copy with `change` applied to every text, as in redaction."""

    def changed(passage: Quotation) -> Quotation:
        return Quotation(change(passage.title), tuple(map(change, passage.headings)), change(passage.text))

    return replace(
        made,
        messages=tuple(ChatMessage(message.role, change(message.content)) for message in made.messages),
        passages=tuple(map(changed, made.passages)),
        chosen=change(made.chosen),
        rejected=change(made.rejected) if made.rejected else made.rejected,
    )
