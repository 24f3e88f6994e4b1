"""OpenAI response bodies: completions whole and in chunks, models, errors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from adapters.http.openapi import INTEGER, OBJECT, TEXT, JsonObject, array, const, nullable, record, ref
from bot.errors import InvalidInput, KeyRefused, MynaError, NotFound, QuotaExceeded, TooLarge, Unavailable, UnknownModel
from bot.generation.port import Event, Piece, TokenLogprob, ToolCall
from storage.values import new_id


class AnswerForm(Protocol):
    """Builds an answer from the events of its choices, whole or in chunks."""

    def name(self, reply_id: str) -> None: ...

    def take(self, choice: int, event: Event) -> None: ...

    def whole(self) -> JsonObject: ...

    def opening(self) -> list[JsonObject]: ...

    def chunks(self, choice: int, event: Event) -> list[JsonObject]: ...

    def usage_chunk(self) -> JsonObject: ...


@dataclass(slots=True)
class _Choice:
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    cited: list[JsonObject] = field(default_factory=list)

    def take(self, event: Event) -> None:
        if isinstance(event, Piece):
            self.text += event.text
            self.logprobs += event.logprobs
        elif isinstance(event, ToolCall):
            self.calls.append(event)
        else:
            self.reason = event.reason
            self.prompt_tokens, self.completion_tokens = event.prompt_tokens, event.completion_tokens


class _Answer:
    kind = ""
    chunk_kind = ""
    prefix = ""

    def __init__(self, model: str, choices: int) -> None:
        self._choices = [_Choice() for _ in range(choices)]
        self._frame = {"id": f"{self.prefix}{new_id()}", "created": int(time.time()), "model": model}

    def name(self, reply_id: str) -> None:
        """Put a reply's id into the answer's: a stored reply, open to votes, or a line of the turn log."""
        self._frame["id"] = self.prefix + reply_id

    def cite(self, number: int, title: str, url: str) -> None:
        """Annotate every `[number]` in the text of the first choice as a URL citation."""
        mark = f"[{number}]"
        for place in _places(self._choices[0].text, mark):
            citation = {"start_index": place, "end_index": place + len(mark), "title": title, "url": url}
            self._choices[0].cited.append({"type": "url_citation", "url_citation": citation})

    def take(self, choice: int, event: Event) -> None:
        self._choices[choice].take(event)

    def _usage(self) -> JsonObject:
        prompt_tokens = max(choice.prompt_tokens for choice in self._choices)
        completion_tokens = sum(choice.completion_tokens for choice in self._choices)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }

    def _chunk(self, choices: list[JsonObject], **more: Any) -> JsonObject:
        return {**self._frame, "object": self.chunk_kind, "choices": choices, **more}

    def usage_chunk(self) -> JsonObject:
        """Return the last chunk: no choices, but the usage."""
        return self._chunk([], usage=self._usage())


class ChatAnswer(_Answer):
    """Answer of `/v1/chat/completions`."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def whole(self) -> JsonObject:
        choices = []
        for index, choice in enumerate(self._choices):
            message: JsonObject = {
                "role": "assistant",
                "content": choice.text if choice.text or not choice.calls else None,
                "refusal": None,
                "annotations": choice.cited,
            }
            if choice.calls:
                message["tool_calls"] = [_call(call) for call in choice.calls]
            logprobs = {"content": _logprob_rows(choice.logprobs), "refusal": None} if choice.logprobs else None
            choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.reason})
        return {**self._frame, "object": self.kind, "choices": choices, "usage": self._usage()}

    def opening(self) -> list[JsonObject]:
        return [
            self._chunk([_delta(index, {"role": "assistant", "content": "", "refusal": None})])
            for index in range(len(self._choices))
        ]

    def chunks(self, choice: int, event: Event) -> list[JsonObject]:
        self.take(choice, event)
        if isinstance(event, Piece):
            logprobs = {"content": _logprob_rows(event.logprobs), "refusal": None} if event.logprobs else None
            return [self._chunk([_delta(choice, {"content": event.text}, logprobs)])]
        if isinstance(event, ToolCall):
            place = len(self._choices[choice].calls) - 1
            return [self._chunk([_delta(choice, {"tool_calls": [{"index": place, **_call(event)}]})])]
        last: JsonObject = {"annotations": cited} if (cited := self._choices[choice].cited) else {}
        return [self._chunk([_delta(choice, last, None, event.reason)])]


class TextAnswer(_Answer):
    """Answer of `/v1/completions`."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl-"

    def whole(self) -> JsonObject:
        choices = [
            self._row(index, choice.text, choice.logprobs, choice.reason) for index, choice in enumerate(self._choices)
        ]
        return {**self._frame, "object": self.kind, "choices": choices, "usage": self._usage()}

    def opening(self) -> list[JsonObject]:
        return []

    def chunks(self, choice: int, event: Event) -> list[JsonObject]:
        before = len(self._choices[choice].text)
        self.take(choice, event)
        if isinstance(event, Piece):
            return [self._chunk([self._row(choice, event.text, event.logprobs, None, before)])]
        return [] if isinstance(event, ToolCall) else [self._chunk([self._row(choice, "", (), event.reason)])]

    def _row(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], reason: str | None, offset: int = 0
    ) -> JsonObject:
        rows = _legacy_logprobs(logprobs, offset) if logprobs else None
        return {"index": index, "text": text, "logprobs": rows, "finish_reason": reason}


def _places(text: str, mark: str) -> Iterator[int]:
    place = text.find(mark)
    while place >= 0:
        yield place
        place = text.find(mark, place + 1)


def _delta(index: int, delta: JsonObject, logprobs: JsonObject | None = None, reason: str | None = None) -> JsonObject:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _call(call: ToolCall) -> JsonObject:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _logprob_rows(logprobs: Sequence[TokenLogprob]) -> list[JsonObject]:
    return [{**_logprob_row(token), "top_logprobs": [_logprob_row(other) for other in token.top]} for token in logprobs]


def _logprob_row(token: TokenLogprob) -> JsonObject:
    return {"token": token.token, "bytes": list(token.bytes), "logprob": token.logprob}


def _legacy_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> JsonObject:
    offsets = []
    for token in logprobs:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in logprobs],
        "token_logprobs": [token.logprob for token in logprobs],
        "top_logprobs": [{other.token: other.logprob for other in token.top} for token in logprobs],
        "text_offset": offsets,
    }


def model_row(name: str, created: int) -> JsonObject:
    """Return a model as `/v1/models` lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "myna"}


ERROR_TYPES: Mapping[type[MynaError], str] = {
    KeyRefused: "authentication_error",
    UnknownModel: "invalid_request_error",
    InvalidInput: "invalid_request_error",
    TooLarge: "invalid_request_error",
    NotFound: "invalid_request_error",
    QuotaExceeded: "rate_limit_error",
    Unavailable: "overloaded_error",
}


def error_body(error: MynaError) -> JsonObject:
    """Convert an error to OpenAI's format."""
    kind = next((ERROR_TYPES[base] for base in type(error).__mro__ if base in ERROR_TYPES), "server_error")
    code = error.code
    if isinstance(error, QuotaExceeded):
        code = "insufficient_quota" if error.is_final else "rate_limit_exceeded"
    field_name = "model" if isinstance(error, UnknownModel) else getattr(error, "field", None)
    return {"error": {"message": error.message, "type": kind, "param": field_name, "code": code}}


_TOKENS = INTEGER | {"minimum": 0}


def _whole_schema(kind: str) -> JsonObject:
    return record(
        {
            "id": TEXT,
            "object": const(kind),
            "created": INTEGER,
            "model": TEXT,
            "choices": array(OBJECT | {"required": ["index", "finish_reason"]}),
            "usage": ref("ApiUsage"),
        }
    )


SCHEMAS: Mapping[str, JsonObject] = {
    "ChatCompletion": _whole_schema(ChatAnswer.kind),
    "Completion": _whole_schema(TextAnswer.kind),
    "ApiUsage": record({"prompt_tokens": _TOKENS, "completion_tokens": _TOKENS, "total_tokens": _TOKENS}),
    "ApiModel": record({"id": TEXT, "object": const("model"), "created": INTEGER, "owned_by": TEXT}),
    "ApiError": record(
        {
            "error": record(
                {"message": TEXT | {"minLength": 1}, "type": TEXT, "param": nullable(TEXT), "code": nullable(TEXT)},
                closed=True,
            )
        },
        closed=True,
    ),
}
