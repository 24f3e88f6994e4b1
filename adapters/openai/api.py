"""OpenAI-compatible API under /v1: chat completions, completions, models.

Only the usage is stored, unless `metadata.conversation` asks for a conversation with memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

from aiohttp import web

from adapters.article_links import ArticleLinks, SourceLink
from adapters.http.openapi import (
    OBJECT,
    TEXT,
    Fragment,
    JsonObject,
    answer,
    array,
    const,
    error_answer,
    operation,
    record,
    ref,
)
from adapters.http.requests import clean_text, read_json
from adapters.http.sse import DONE, send_events, sse_event
from adapters.openai import request_form, response_form
from adapters.openai.request_form import ApiRequest, parse_chat_completion, parse_completion
from adapters.openai.response_form import AnswerForm, ChatAnswer, TextAnswer, error_body, model_row
from bot.chat.live import Ended, LiveEvents, Started, Text
from bot.chat.turns import Conversations
from bot.completions.api_keys_access import ApiAccess, Caller
from bot.completions.completions import Completions
from bot.errors import Conflict, GeneratorFailed, InvalidInput, MynaError, NotFound, ShuttingDown, Unavailable
from bot.generation.port import ChatMessage, Event, Finish, FinishReason, Piece, Sampling
from storage.values import Incoming, Sender, new_id, text_part

T = TypeVar("T")

log = logging.getLogger("myna.api")

CHANNEL = "api"
LOOK_FOR_CALLER_SECONDS = 0.5


class OpenAiApi:
    """Handlers of a workspace's API. `defaults` are the sampling options where a request has none."""

    def __init__(
        self,
        completions: Completions,
        conversations: Conversations,
        access: ApiAccess,
        defaults: Sampling,
        links: ArticleLinks,
        workspace_id: str,
    ) -> None:
        self._links = links
        self._completions = completions
        self._conversations = conversations
        self._access = access
        self._defaults = defaults
        self._workspace_id = workspace_id
        self._started = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self.models),
            web.get("/v1/models/{id:.+}", self.model),
            web.post("/v1/chat/completions", self.chat_completions),
            web.post("/v1/completions", self.text_completions),
            web.post("/v1/embeddings", self.embeddings),
        ]

    def document(self) -> Fragment:
        return DOCUMENT

    async def models(self, request: web.Request) -> web.Response:
        await admit(self._access, request)
        rows = [model_row(name, self._started) for name in self._completions.models()]
        return web.json_response({"object": "list", "data": rows})

    async def model(self, request: web.Request) -> web.Response:
        await admit(self._access, request)
        name = request.match_info["id"]
        self._completions.version_of(name)
        return web.json_response(model_row(name, self._started))

    async def embeddings(self, request: web.Request) -> web.Response:
        await admit(self._access, request)
        raise NotFound("This Myna has no embedding model yet.")

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        caller = await admit(self._access, request)
        wanted = parse_chat_completion(await read_json(request), self._defaults)
        if wanted.conversation is not None:
            return await self._while_connected(request, self._answer_with_memory(request, caller, wanted))
        answer = ChatAnswer(wanted.request.model, wanted.request.choices)
        return await self._while_connected(request, self._answer(request, caller, wanted, answer))

    async def text_completions(self, request: web.Request) -> web.StreamResponse:
        caller = await admit(self._access, request)
        wanted = parse_completion(await read_json(request), self._defaults)
        answer = TextAnswer(wanted.request.model, wanted.request.choices)
        return await self._while_connected(request, self._answer(request, caller, wanted, answer))

    async def _answer(
        self, request: web.Request, caller: Caller, wanted: ApiRequest, answer: AnswerForm
    ) -> web.StreamResponse:
        async with self._completions.run(caller, wanted.request) as run:
            answer.name(run.id)
            if wanted.stream:
                return await _send_stream(request, answer, run.events, wanted.include_usage)
            async for choice, event in run.events:
                answer.take(choice, event)
        return web.json_response(answer.whole(), headers=request[LIMIT_HEADERS])

    async def _answer_with_memory(self, request: web.Request, caller: Caller, wanted: ApiRequest) -> web.StreamResponse:
        """Answer the last message like any chat: stored, queued, answered once, and kept for learning."""
        last = wanted.request.messages[-1]
        self._refuse_beside_memory(wanted, last)
        text = clean_text(last.content)
        if not text:
            raise InvalidInput("The message is empty.", field="messages")
        given_id = request.headers.get("Idempotency-Key") or new_id()
        whole_id = json.dumps([caller.name, wanted.conversation, given_id])
        dedupe_key = f"{CHANNEL}/{hashlib.sha256(whole_id.encode()).hexdigest()}"
        key = conversation_key(caller, str(wanted.conversation))
        incoming = Incoming(CHANNEL, key, Sender(caller.name), dedupe_key, (text_part(text),))
        accepted = await self._conversations.accept(self._workspace_id, incoming)
        if not accepted.duplicate:
            self._completions.record_memory(caller, self._conversations.history.follow(self._workspace_id, accepted))
        answer = ChatAnswer(wanted.request.model, 1)
        live = self._conversations.history.follow(self._workspace_id, accepted)
        events = _memory_events(live, answer, self._links_for(request), again=not wanted.stream)
        async with contextlib.aclosing(events):
            if wanted.stream:
                return await _send_stream(request, answer, events, wanted.include_usage)
            async for choice, event in events:
                answer.take(choice, event)
        return web.json_response(answer.whole(), headers=request[LIMIT_HEADERS])

    def _links_for(self, request: web.Request) -> SourceLink:
        return lambda source: self._links.link(source, f"{request.scheme}://{request.host}")

    def _refuse_beside_memory(self, wanted: ApiRequest, last: ChatMessage) -> None:
        asked = wanted.request
        if last.role != "user" or asked.choices > 1 or asked.tools:
            raise InvalidInput(
                "With `metadata.conversation`, send one new message of the user, without tools, and n=1.",
                field="metadata.conversation",
            )
        if self._completions.version_of(asked.model) is not None or asked.sampling != self._defaults:
            raise InvalidInput(
                "With `metadata.conversation`, Myna answers as in its chats: name the base model, and leave out "
                "`max_tokens`, `temperature`, `response_format` and all else about sampling.",
                field="metadata.conversation",
            )

    async def _while_connected(self, request: web.Request, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`, and cancel it as soon as the caller disconnects."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=LOOK_FOR_CALLER_SECONDS))[0]:
                if request.transport is None or request.transport.is_closing():
                    raise Conflict("The caller has disconnected.")
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})


LIMIT_HEADERS = web.RequestKey("limit_headers", dict[str, str])


async def admit(access: ApiAccess, request: web.Request) -> Caller:
    """Authenticate a request under /v1 and count it. Raises `KeyRefused` or `QuotaExceeded`."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    caller = await access.admit(secret.strip() if scheme.lower() == "bearer" else None)
    request[LIMIT_HEADERS] = _limit_headers(caller)
    return caller


def conversation_key(caller: Caller, name: str) -> str:
    """Return the key in storage of a caller's conversation."""
    return f"{caller.name}/{name}"


def _limit_headers(caller: Caller) -> dict[str, str]:
    """Return the rate limit headers, under OpenAI's names."""
    headers = {}
    if caller.key is not None and caller.requests_left is not None:
        headers["x-ratelimit-limit-requests"] = str(caller.key.requests_per_minute)
        headers["x-ratelimit-remaining-requests"] = str(caller.requests_left)
    if caller.key is not None and caller.tokens_left is not None:
        headers["x-ratelimit-limit-tokens"] = str(caller.key.tokens_per_day)
        headers["x-ratelimit-remaining-tokens"] = str(caller.tokens_left)
    return headers


async def _send_stream(
    request: web.Request, answer: AnswerForm, events: AsyncGenerator[tuple[int, Event], None], include_usage: bool
) -> web.StreamResponse:
    """Stream the answer as server-sent events. An error before the first token still gets its own HTTP status."""
    first = await anext(events)
    return await send_events(request, _encoded(answer, first, events, include_usage), request[LIMIT_HEADERS])


async def _encoded(
    answer: AnswerForm, first: tuple[int, Event], events: AsyncGenerator[tuple[int, Event], None], include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """Encode the chunks of an answer. The status has been sent by now, so errors go into the stream."""
    yield _sse(*answer.opening(), *answer.chunks(*first))
    try:
        async for choice, event in events:
            yield _sse(*answer.chunks(choice, event))
    except MynaError as error:
        yield _sse(error_body(error))
    except Exception:
        log.exception("a stream failed")
        yield _sse(error_body(MynaError()))
    else:
        yield (_sse(answer.usage_chunk()) if include_usage else b"") + DONE


def _sse(*chunks: Mapping[str, Any]) -> bytes:
    return b"".join(sse_event(chunk, ascii_only=True) for chunk in chunks)


async def _memory_events(
    live: AsyncGenerator[LiveEvents, None], answer: ChatAnswer, link: SourceLink, *, again: bool
) -> AsyncGenerator[tuple[int, Event], None]:
    """Convert a live reply to generator events, after naming the answer after it.

    The reply may restart, after another message or a failure. With `again` all text is held back until the end, so that
    a restart goes unnoticed; without it, a restart after the first text raises `Unavailable`.
    """
    said = ""
    async with contextlib.aclosing(live):
        async for batch in live:
            for event in batch:
                if isinstance(event, Started):
                    if said and not again:
                        raise Unavailable(
                            "The answer was started over. Send the request again with the same Idempotency-Key."
                        )
                    said = ""
                    answer.name(event.reply_id)
                elif isinstance(event, Text):
                    said += event.text
                    if not again:
                        yield 0, Piece(event.text)
                elif isinstance(event, Ended):
                    if event.state == "failed":
                        raise GeneratorFailed
                    if again and said:
                        yield 0, Piece(said)
                    for source in event.sources:
                        if url := link(source):
                            answer.cite(source["number"], source["title"], url)
                    reason: FinishReason = "length" if event.reason == "length" else "stop"
                    yield 0, Finish(reason, event.prompt_tokens, event.completion_tokens)
                    return
    raise ShuttingDown


_ERRORS = {
    400: "ApiBadRequest",
    401: "ApiKeyRefused",
    403: "ApiNotAllowed",
    404: "ApiNotFound",
    409: "ApiGone",
    413: "ApiTooLarge",
    429: "ApiQuota",
    500: "ApiFailed",
    503: "ApiUnavailable",
}


def key_operation(
    operation_id: str,
    summary: str,
    answers: Mapping[int, JsonObject],
    errors: tuple[int, ...] = (),
    *,
    body: JsonObject | None = None,
    parameters: tuple[JsonObject, ...] = (),
    description: str = "",
) -> JsonObject:
    """Build an operation for callers with an API key."""
    statuses = {401, 429, 500, 503, *errors} | ({403, 404, 413} if body is not None else set())
    return operation(
        operation_id,
        "model",
        summary,
        answers,
        {status: _ERRORS[status] for status in statuses},
        security=[{"apiKey": []}],
        body=body,
        parameters=parameters,
        description=description,
    )


def _completed(form: str) -> dict[int, JsonObject]:
    whole = answer("The answer, whole or as server-sent events.", ref(form))
    whole["content"]["text/event-stream"] = {"schema": {}}
    return {200: whole}


DOCUMENT = Fragment(
    tags={"model": "The model for programs, in OpenAI's form"},
    operations={
        "POST /v1/chat/completions": key_operation(
            "createChatCompletion",
            "Answer a conversation",
            _completed("ChatCompletion"),
            (400, 409),
            body=ref("ChatCompletionRequest"),
        ),
        "POST /v1/completions": key_operation(
            "createCompletion", "Continue a text", _completed("Completion"), (400, 409), body=ref("CompletionRequest")
        ),
        "POST /v1/embeddings": key_operation("createEmbedding", "Not implemented yet: answers 404", {}, body=OBJECT),
        "GET /v1/models": key_operation(
            "listModels",
            "List the base model and its versions",
            {200: answer("The answer.", record({"object": const("list"), "data": array(ref("ApiModel"))}))},
        ),
        "GET /v1/models/{id}": key_operation(
            "getModel",
            "Get a model",
            {200: answer("The answer.", ref("ApiModel"))},
            (404,),
            parameters=({"name": "id", "in": "path", "required": True, "schema": TEXT | {"minLength": 1}},),
        ),
    },
    security={
        "apiKey": {
            "type": "http",
            "scheme": "bearer",
            "description": "A key from `myna key create`. Not needed with MYNA_API_KEYS=off.",
        }
    },
    responses={
        "ApiBadRequest": error_answer("The request is not valid; `param` says where.", "ApiError"),
        "ApiKeyRefused": error_answer("The API key is missing or not valid.", "ApiError"),
        "ApiNotAllowed": error_answer("A page of another origin sent this.", "ApiError"),
        "ApiNotFound": error_answer("There is no such model.", "ApiError"),
        "ApiGone": error_answer("The caller disconnected before the answer.", "ApiError"),
        "ApiTooLarge": error_answer("The request is over 2 MB.", "ApiError"),
        "ApiQuota": error_answer("A limit of the key is used up; Retry-After says when to come again.", "ApiError"),
        "ApiUnavailable": error_answer("The model is busy or not ready.", "ApiError"),
        "ApiFailed": error_answer("Something went wrong on the server.", "ApiError"),
    },
    schemas={**request_form.SCHEMAS, **response_form.SCHEMAS},
)
