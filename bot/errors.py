"""The errors that people and callers see. Each class's docstring is its default message.

Knows: what went wrong and the numbers that belong to it. Does not know: HTTP, Slack, SQL; adapters choose how to show
an error. Nothing here carries a secret or a stack trace.
"""

from __future__ import annotations

import inspect


class MynaError(Exception):
    """Something went wrong in Myna."""

    code = "error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or self.code)

    @property
    def message(self) -> str:
        return str(self.args[0])


class InvalidInput(MynaError):
    """The request is not valid."""

    code = "invalid_input"

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotAuthenticated(MynaError):
    """You are not signed in to this chat. Ask POST /api/visitor for a token first."""

    code = "not_authenticated"


class KeyRefused(MynaError):
    """This API key is not valid, or was revoked. `myna key create NAME` makes one."""

    code = "invalid_api_key"


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
    """This page may not use this chat. Add its origin to MYNA_ALLOWED_ORIGINS."""

    code = "not_allowed"


class NotFound(MynaError):
    """There is no such conversation."""

    code = "not_found"


class Conflict(MynaError):
    """This is no longer possible; reload the conversation and try again."""

    code = "conflict"


class TooLarge(MynaError):
    """The message is too long."""

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
