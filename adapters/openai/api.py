"""The model API in OpenAI's form, for programs: what the `openai` clients, LangChain and others speak.

Knows: routes under /v1, answers and streams as these clients expect them. Does not know: SQL, how a model works.
Nothing is stored but what was used, unless `metadata.conversation` asks for our memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from aiohttp import web

from adapters.article_links import ArticleLinks
from adapters.http.openapi import (
    OBJECT,
    TEXT,
    Fragment,
    Json,
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
from adapters.openai.response_form import Answer, ChatAnswer, TextAnswer, error_body, model_row
from bot.chat.live import Ended, LiveEvents, Started, Text
from bot.chat.turns import Conversations
from bot.completions.api_keys_access import ApiAccess, Caller
from bot.completions.completions import Completions
from bot.errors import Conflict, GeneratorFailed, InvalidInput, MynaError, NotFound, ShuttingDown, Unavailable
from bot.generation.port import ChatMessage, Event, Finish, FinishReason, Piece, Sampling
from storage.values import Incoming, Part, Sender, new_id, text_part

T = TypeVar("T")
Link = Callable[[Part], str | None]

log = logging.getLogger("myna.api")

CHANNEL = "api"
LOOK_FOR_CALLER_SECONDS = 0.5


class OpenAiApi:
    """Handlers of one workspace's API. `defaults` are the sampling of requests that say nothing of it."""

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
        self, request: web.Request, caller: Caller, wanted: ApiRequest, answer: Answer
    ) -> web.StreamResponse:
        async with self._completions.run(caller, wanted.request) as run:
            answer.name(run.id)
            if wanted.stream:
                return await _send_stream(request, answer, run.events, wanted.include_usage)
            async for choice, event in run.events:
                answer.take(choice, event)
        return web.json_response(answer.whole(), headers=request[LIMIT_HEADERS])

    async def _answer_with_memory(self, request: web.Request, caller: Caller, wanted: ApiRequest) -> web.StreamResponse:
        """The last message goes the way of every chat: stored, queued, answered once, and in the dataset."""
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

    def _links_for(self, request: web.Request) -> Link:
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
        """Do the work, and stop it as soon as nobody waits for it any more."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=LOOK_FOR_CALLER_SECONDS))[0]:
                if request.transport is None or request.transport.is_closing():
                    raise Conflict("The caller has gone.")
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})


LIMIT_HEADERS = web.RequestKey("limit_headers", dict[str, str])


async def admit(access: ApiAccess, request: web.Request) -> Caller:
    """Who sends a request under /v1. Raises `KeyRefused` and `QuotaExceeded`."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    caller = await access.admit(secret.strip() if scheme.lower() == "bearer" else None)
    request[LIMIT_HEADERS] = _limit_headers(caller)
    return caller


def conversation_key(caller: Caller, name: str) -> str:
    """What a caller's conversation with memory is called in storage."""
    return f"{caller.name}/{name}"


def _limit_headers(caller: Caller) -> dict[str, str]:
    """What is left of the key's limits, by the names that OpenAI gives them."""
    headers = {}
    if caller.key is not None and caller.requests_left is not None:
        headers["x-ratelimit-limit-requests"] = str(caller.key.requests_per_minute)
        headers["x-ratelimit-remaining-requests"] = str(caller.requests_left)
    if caller.key is not None and caller.tokens_left is not None:
        headers["x-ratelimit-limit-tokens"] = str(caller.key.tokens_per_day)
        headers["x-ratelimit-remaining-tokens"] = str(caller.tokens_left)
    return headers


async def _send_stream(
    request: web.Request, answer: Answer, events: AsyncGenerator[tuple[int, Event], None], include_usage: bool
) -> web.StreamResponse:
    """The answer as server-sent events. What is refused before the first token still gets a status of its own."""
    first = await anext(events)
    return await send_events(request, _encoded(answer, first, events, include_usage), request[LIMIT_HEADERS])


async def _encoded(
    answer: Answer, first: tuple[int, Event], events: AsyncGenerator[tuple[int, Event], None], include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The chunks of an answer. Its status has been sent by now, so that an error must be said inside the stream."""
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
    live: AsyncGenerator[LiveEvents, None], answer: ChatAnswer, link: Link, *, again: bool
) -> AsyncGenerator[tuple[int, Event], None]:
    """A reply with memory as events of the generator; the answer is named after the reply before any of them.

    It may begin anew, because more was said or something failed. With `again` nothing is given out before its end, so
    that this does not matter; else such a stream ends with an error.
    """
    said = ""
    async with contextlib.aclosing(live):
        async for batch in live:
            for event in batch:
                if isinstance(event, Started):
                    if said and not again:
                        raise Unavailable("The answer began anew. Ask for it with the same Idempotency-Key.")
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
    answers: Mapping[int, Json],
    errors: tuple[int, ...] = (),
    *,
    body: Json | None = None,
    parameters: tuple[Json, ...] = (),
    description: str = "",
) -> Json:
    """An operation for a program with a key."""
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


def _completed(form: str) -> dict[int, Json]:
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
            "createCompletion", "Go on with a text", _completed("Completion"), (400, 409), body=ref("CompletionRequest")
        ),
        "POST /v1/embeddings": key_operation("createEmbedding", "Not there yet: answers 404", {}, body=OBJECT),
        "GET /v1/models": key_operation(
            "listModels",
            "The base model and the versions beside it",
            {200: answer("The answer.", record({"object": const("list"), "data": array(ref("ApiModel"))}))},
        ),
        "GET /v1/models/{id}": key_operation(
            "getModel",
            "One model",
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
        "ApiKeyRefused": error_answer("There is no valid key.", "ApiError"),
        "ApiNotAllowed": error_answer("A page of another origin sent this.", "ApiError"),
        "ApiNotFound": error_answer("There is no such model.", "ApiError"),
        "ApiGone": error_answer("The caller went away before the answer.", "ApiError"),
        "ApiTooLarge": error_answer("The request is over 2 MB.", "ApiError"),
        "ApiQuota": error_answer("The key has used what it may; Retry-After says when to come again.", "ApiError"),
        "ApiUnavailable": error_answer("The model is busy or not ready.", "ApiError"),
        "ApiFailed": error_answer("Something went wrong here.", "ApiError"),
    },
    schemas={**request_form.SCHEMAS, **response_form.SCHEMAS},
)
