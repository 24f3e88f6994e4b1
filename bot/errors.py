"""The errors that people and callers see.

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

Each class's docstring is its default message. A message says what is wrong; what helps is a `hint`, which each channel
puts in its own words: a command in the shell, a page's name in the browser. Nothing here carries a secret or a stack
trace.
"""

from __future__ import annotations

import inspect
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
    """This API key has used what it may."""

    code = "quota_exceeded"

    def __init__(self, message: str | None = None, *, retry_after: float, is_final: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_final = is_final  # waiting a little will not help


class TooManyAttempts(QuotaExceeded):
    """That was wrong too often. Please wait before you try again."""

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
    """The model has as much waiting work as it takes."""

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
    """This version has not passed the gate. Promote it all the same with a reason, which is recorded."""

    code = "refused_by_gate"


class SettingsError(MynaError):
    """The settings are not valid."""

    code = "settings_error"


class AlreadyRunning(MynaError):
    """Another Myna process already uses this data folder."""

    code = "already_running"
