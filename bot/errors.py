"""Errors shown to people and API callers.

MynaError
├── InvalidInput
├── NotAuthenticated
├── KeyRefused
├── NotAllowed
├── NotFound
├── UnknownModel
├── Conflict
├── TooLarge
├── QuotaExceeded
│   └── TooManyAttempts
├── Unavailable
│   ├── ShuttingDown
│   ├── GeneratorBusy
│   └── GeneratorUnavailable
├── GeneratorFailed
├── ModelError
├── VersionError
├── TrainingFailed
├── RefusedByGate
├── SettingsError
└── AlreadyRunning

Each class's docstring is its default message. A message names the problem; `hint` names the remedy, which each channel
words for its people: a command in the shell, a page in the browser. No error carries a secret or a stack trace.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Literal

Hint = Literal[
    "build_dataset",
    "create_key",
    "give_rows",
    "list_articles",
    "list_corrections",
    "list_curated",
    "list_datasets",
    "list_gaps",
    "list_golden",
    "list_jobs",
    "sync_articles",
    "train_intents",
]

GateFault = Literal["not_evaluated", "did_not_pass", "judged_beside_another"]
FaultKind = GateFault | Literal["answers_already", "retired", "tainted", "nothing_before", "no_canary"]
_FAULTS: dict[FaultKind, str] = {
    "not_evaluated": "{version} has not been evaluated.",
    "did_not_pass": "{version} did not pass the gate.",
    "judged_beside_another": "{version} passed the gate beside another champion than {champion}, which answers now.",
    "answers_already": "{version} answers already.",
    "retired": "{version} was retired: {because}.",
    "tainted": "{version} was trained on words of somebody who has been erased, and may not be used any more.",
    "nothing_before": "The base model answers, and nothing did before it that may come back: there is nothing to roll "
    "back to.",
    "no_canary": "There is no canary to stop.",
}
_AT_THE_GATE: tuple[FaultKind, ...] = ("not_evaluated", "did_not_pass", "judged_beside_another")


@dataclass(frozen=True, slots=True)
class Fault:
    """Reason for refusing a release. Each channel words it for its people.

    `champion` is the version that answers now; `because` is the recorded reason for retiring `version`.
    """

    kind: FaultKind
    version: str = ""
    champion: str = ""
    because: str = ""

    @property
    def is_of_gate(self) -> bool:
        """Return True for faults of the gate, which a reason overrides; nothing overrides the others."""
        return self.kind in _AT_THE_GATE

    @property
    def text(self) -> str:
        return _FAULTS[self.kind].format(version=self.version, champion=self.champion, because=self.because)


class MynaError(Exception):
    """Something went wrong in Myna."""

    code = "error"
    hint: Hint | None = None

    def __init__(self, message: str | None = None, *, hint: Hint | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or self.code)
        if hint is not None:
            self.hint = hint

    @property
    def message(self) -> str:
        return str(self.args[0])


class InvalidInput(MynaError):
    """The request is not valid."""

    code = "invalid_input"

    def __init__(self, message: str | None = None, *, field: str | None = None, hint: Hint | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class NotAuthenticated(MynaError):
    """You are not signed in."""

    code = "not_authenticated"


class KeyRefused(MynaError):
    """This API key is not valid, or was revoked."""

    code = "invalid_api_key"
    hint = "create_key"


class QuotaExceeded(MynaError):
    """This API key has used up its quota."""

    code = "quota_exceeded"

    def __init__(self, message: str | None = None, *, retry_after: float, is_final: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_final = is_final  # a retry within minutes will not help


class TooManyAttempts(QuotaExceeded):
    """Too many failed attempts. Please wait before you try again."""

    code = "too_many_attempts"


class UnknownModel(MynaError):
    """There is no such model."""

    code = "model_not_found"


class NotAllowed(MynaError):
    """This is not allowed."""

    code = "not_allowed"


class NotFound(MynaError):
    """There is nothing of this name."""

    code = "not_found"


class Conflict(MynaError):
    """This is no longer possible. Reload, and try again."""

    code = "conflict"

    def __init__(self, message: str | None = None, *, hint: Hint | None = None, fault: Fault | None = None) -> None:
        super().__init__(fault.text if message is None and fault is not None else message, hint=hint)
        self.fault = fault


class TooLarge(MynaError):
    """This is too large."""

    code = "too_large"

    def __init__(self, message: str | None = None, *, limit: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit


class Unavailable(MynaError):
    """Myna can't take this right now. Please try again in a moment; nothing was stored."""

    code = "unavailable"

    def __init__(self, message: str | None = None, *, retry_after: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ShuttingDown(Unavailable):
    """Myna is restarting. Please try again in a moment; nothing was stored."""

    code = "shutting_down"


class GeneratorBusy(Unavailable):
    """The model's queue is full."""

    code = "generator_busy"


class GeneratorUnavailable(Unavailable):
    """The model is not ready."""

    code = "generator_unavailable"


class GeneratorFailed(MynaError):
    """The model failed while it was answering."""

    code = "generator_failed"


class ModelError(MynaError):
    """The model can't be loaded."""

    code = "model_error"


class VersionError(MynaError):
    """This version of the model can't be loaded."""

    code = "version_error"


class TrainingFailed(MynaError):
    """The training could not go on."""

    code = "training_failed"


class RefusedByGate(MynaError):
    """The gate refuses this version. A reason overrides that, and is recorded."""

    code = "refused_by_gate"

    def __init__(self, version: str, fault: Fault) -> None:
        super().__init__(fault.text)
        self.version = version
        self.fault = fault


class SettingsError(MynaError):
    """The settings are not valid."""

    code = "settings_error"


class AlreadyRunning(MynaError):
    """Another Myna process already uses this data folder."""

    code = "already_running"
