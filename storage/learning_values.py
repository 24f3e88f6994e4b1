"""What the learning loop keeps in storage: frozen values, apart from the rows they are kept in.

Knows: shapes. Does not know: SQL, how examples are chosen, how a model is trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from storage.values import Quotation

ExampleKind = Literal["answer", "pair", "thumb"]
Split = Literal["train", "held_out"]
JobState = Literal["queued", "running", "paused", "done", "refused", "failed", "cancelled"]
Wanted = Literal["run", "pause", "cancel"]
CanaryOutcome = Literal["promoted", "rolled_back", "harm", "replaced"]
OPEN_STATES = frozenset({"queued", "running", "paused"})
DRAFT = "draft "  # what the hash of a dataset begins with while its examples are being written


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn: what should, or should not, be said after `messages`.

    `messages` are `{"role", "content"}`, a system message first where the conversation had instructions of its own, the
    user's last; `passages` is what there was to read of articles. An `answer` has `chosen`; a `pair` has `rejected`,
    too; a `thumb` has `chosen` and says whether it was `good`. `source` is where it came from: import, approved,
    correction, agent, thumb.
    """

    kind: ExampleKind
    source: str
    split: Split
    conversation_id: str
    message_id: str
    person_id: str | None
    messages: tuple[Mapping[str, str], ...]
    chosen: str
    rejected: str | None = None
    good: bool | None = None
    passages: tuple[Quotation, ...] = ()

    @property
    def content(self) -> dict[str, Any]:
        """All that is learnt from it, as JSON."""
        content = {
            "messages": [dict(one) for one in self.messages],
            "chosen": self.chosen,
            "rejected": self.rejected,
            "good": self.good,
        }
        return content | ({"passages": [dataclasses.asdict(one) for one in self.passages]} if self.passages else {})

    @classmethod
    def of_row(cls, row: Any) -> Example:
        """Out of a row with the columns of an example, its content not erased."""
        content = row.content
        passages = (Quotation(**{**one, "headings": tuple(one["headings"])}) for one in content.get("passages", ()))
        return cls(
            row.kind,
            row.source,
            row.split,
            row.conversation_id,
            row.message_id,
            row.person_id,
            tuple(content["messages"]),
            content["chosen"],
            content.get("rejected"),
            content.get("good"),
            tuple(passages),
        )

    @property
    def sha256(self) -> str:
        """Over all that is learnt from it, and nothing that says where it came from."""
        content: list[Any] = [self.kind, [[one["role"], one["content"]] for one in self.messages]]
        content += [self.chosen, self.rejected, self.good]
        if self.passages:
            content.append([[one.title, *one.headings, one.text] for one in self.passages])
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something that was looked at and left out of a dataset."""

    kind: ExampleKind
    source: str
    conversation_id: str
    message_id: str
    person_id: str | None
    because: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a model was or will be trained on; `counts` say how many of each kind, source and reason."""

    id: str
    sha256: str
    settings: Mapping[str, Any]
    counts: Mapping[str, Any]
    created_by: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work of minutes. `progress` is the newest word of whoever does it, `result` what came of it."""

    id: str
    kind: str
    state: JobState
    wanted: Wanted
    priority: int
    device: str
    settings: Mapping[str, Any]
    progress: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    error: str | None
    created_by: str
    attempts: int
    created_at: int
    started_at: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Version:
    """A trained version: what it was made of never changes. Its weights lie in `versions/NAME` of the data folder."""

    id: str
    number: int
    name: str
    base: str
    base_sha256: str
    weights_sha256: str
    dataset_id: str
    job_id: str
    settings: Mapping[str, Any]
    code_version: str
    created_by: str
    created_at: int
    retired_at: int | None = None
    retired_because: str | None = None
    tainted_at: int | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A version beside the champion (None: the base) on the same prompts, and the gate's verdict with its reasons."""

    id: str
    version_id: str
    champion_id: str | None
    passed: bool
    reasons: tuple[str, ...]
    report: Mapping[str, Any]
    created_by: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Canary:
    """A challenger tried on a share of the conversations; `outcome` is None while it runs."""

    id: str
    challenger_id: str
    champion_id: str | None
    share: float
    salt: str
    settings: Mapping[str, Any]
    created_by: str
    created_at: int
    ended_at: int | None = None
    outcome: CanaryOutcome | None = None
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """What answers now; None is the base. `number` grows with each change."""

    number: int = 0
    champion: Version | None = None
    previous: Version | None = None
    challenger: Version | None = None
    canary: Canary | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One thing that was done."""

    number: int
    actor: str
    action: str
    target: str | None
    details: Mapping[str, Any]
    sha256: str
    created_at: int
