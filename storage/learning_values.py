"""Value classes of datasets, jobs, versions, releases and the audit log."""

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
DRAFT = "draft "  # the prefix of a dataset's hash while its examples are being written


@dataclass(frozen=True, slots=True)
class Example:
    """A training example: the reply to give, or not to give, after `messages`.

    `messages` are `{"role", "content"}`, a system message first where the conversation had instructions of its own, the
    user's last; `passages` are the articles' passages to read. An `answer` (SFT) has `chosen`; a `pair` (DPO) also has
    `rejected`; a `thumb` (KTO) has `chosen` and `good`. `source` is import, approved, correction, agent or thumb.
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
        """The content to learn from, as JSON."""
        content = {
            "messages": [dict(message) for message in self.messages],
            "chosen": self.chosen,
            "rejected": self.rejected,
            "good": self.good,
        }
        return content | ({"passages": [dataclasses.asdict(each) for each in self.passages]} if self.passages else {})

    @classmethod
    def of_row(cls, row: Any) -> Example:
        """Build an example from a row with its columns; the content must not be erased."""
        content = row.content
        passages = (Quotation(**{**each, "headings": tuple(each["headings"])}) for each in content.get("passages", ()))
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
        """The hash of the content to learn from, independent of its origin."""
        content: list[Any] = [self.kind, [[message["role"], message["content"]] for message in self.messages]]
        content += [self.chosen, self.rejected, self.good]
        if self.passages:
            content.append([[each.title, *each.headings, each.text] for each in self.passages])
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A candidate that was left out of a dataset, with the reason."""

    kind: ExampleKind
    source: str
    conversation_id: str
    message_id: str
    person_id: str | None
    because: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset; `counts` has the numbers of rows by kind, source and reason."""

    id: str
    sha256: str
    settings: Mapping[str, Any]
    counts: Mapping[str, Any]
    created_by: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job for a worker. `progress` is the worker's newest report, `result` its outcome. Times are milliseconds."""

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
    """A trained version. Its origin never changes; its weights lie in `versions/NAME` of the data folder."""

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
    """A comparison of a version with the champion (None: the base), and the gate's verdict with its reasons."""

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
    """A canary release: a challenger tried on a share of the conversations. `outcome` is None while it runs."""

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
    """The release in force; None is the base. `number` grows with each change."""

    number: int = 0
    champion: Version | None = None
    previous: Version | None = None
    challenger: Version | None = None
    canary: Canary | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row of the audit log."""

    number: int
    actor: str
    action: str
    target: str | None
    details: Mapping[str, Any]
    sha256: str
    created_at: int
