"""Parsing of OpenAI requests; every error names its field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from adapters.http.openapi import (
    BOOLEAN,
    INTEGER,
    NULL,
    NUMBER,
    OBJECT,
    TEXT,
    about,
    array,
    nullable,
    one_of_values,
    record,
)
from bot.completions.completions import CompletionRequest
from bot.errors import InvalidInput
from bot.generation.port import ChatMessage, Role, Sampling, ToolCall

MAX_MESSAGES = 2048
MAX_CHOICES = 8
MAX_TOOLS = 128
MAX_SEED = 2**63
# Flex work waits behind chats and other requests.
FLEX_PRIORITY = 10
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
# Placeholders for parts that a text model cannot read.
PLACEHOLDERS = {
    "image_url": "(An image was sent here. You can't see images.)",
    "input_audio": "(A recording was sent here. You can't hear recordings.)",
    "file": "(A file was sent here. You can't open files.)",
}
UNSUPPORTED = ("logit_bias", "functions", "function_call", "audio", "prediction", "suffix", "best_of", "echo")

JsonBody = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A parsed body. With `conversation`, the stored conversation replaces all messages but the last."""

    request: CompletionRequest
    stream: bool
    include_usage: bool
    conversation: str | None = None


def parse_chat_completion(body: JsonBody, defaults: Sampling) -> ApiRequest:
    """Parse a chat completion; `defaults` fill in missing sampling options. Raises `InvalidInput`."""
    _refuse_unsupported(body)
    messages = _messages(body.get("messages"))
    tools = _tools(body.get("tools"))
    forced = _forced_tools(body.get("tool_choice"), tools)
    sampling = _sampling(body, defaults, max_tokens=("max_completion_tokens", "max_tokens"))
    sampling = replace(sampling, logprobs=_chat_logprobs(body), json_schema=_response_schema(body))
    if forced and sampling.json_schema is not None:
        _refuse("response_format", "can't be combined with a tool_choice that forces a call.")
    request = CompletionRequest(
        endpoint="chat",
        model=_text(body, "model"),
        sampling=sampling,
        messages=messages,
        tools=() if body.get("tool_choice") == "none" else tools,
        forced_tools=forced,
        choices=_choices(body),
        priority=FLEX_PRIORITY if body.get("service_tier") == "flex" else 0,
    )
    return ApiRequest(request, _flag(body, "stream"), _include_usage(body), _conversation(body))


def parse_completion(body: JsonBody, defaults: Sampling) -> ApiRequest:
    """Parse a completion of a single text prompt. Raises `InvalidInput`."""
    _refuse_unsupported(body)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        _refuse("prompt", "must be one text that is not empty.")
    prompt = _storable(prompt)
    sampling = _sampling(body, defaults, max_tokens=("max_tokens",))
    logprobs = body.get("logprobs")
    if logprobs is not None:
        sampling = replace(sampling, logprobs=_whole(logprobs, "logprobs", 0, 20))
    request = CompletionRequest(
        endpoint="completions", model=_text(body, "model"), sampling=sampling, text=prompt, choices=_choices(body)
    )
    return ApiRequest(request, _flag(body, "stream"), _include_usage(body))


def _refuse(field: str, complaint: str) -> NoReturn:
    raise InvalidInput(f"`{field}` {complaint}", field=field)


def _refuse_unsupported(body: JsonBody) -> None:
    for name in UNSUPPORTED:
        if body.get(name):
            _refuse(name, "is not supported.")
    if body.get("modalities") not in (None, ["text"]):
        _refuse("modalities", 'can only be ["text"].')


def _text(body: JsonBody, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        _refuse(name, "must be a text that is not empty.")
    return value


def _flag(body: JsonBody, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        _refuse(name, "must be true or false.")
    return bool(value)


def _whole(value: Any, field: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _refuse(field, f"must be a whole number from {low} to {high}.")
    return value


def _choices(body: JsonBody) -> int:
    return 1 if body.get("n") is None else _whole(body["n"], "n", 1, MAX_CHOICES)


def _include_usage(body: JsonBody) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        _refuse("stream_options", "must be an object.")
    return _flag(options, "include_usage")


def _conversation(body: JsonBody) -> str | None:
    metadata = body.get("metadata")
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        _refuse("metadata", "must be an object.")
    name = metadata.get("conversation")
    return None if name is None else conversation_name(name, "metadata.conversation")


def conversation_name(value: Any, field: str) -> str:
    """Check a program's name for a conversation. Raises `InvalidInput`."""
    if not isinstance(value, str) or not 1 <= len(value) <= 128 or not value.isprintable():
        _refuse(field, "must be a text of 1 to 128 characters.")
    return value


def _sampling(body: JsonBody, defaults: Sampling, max_tokens: tuple[str, ...]) -> Sampling:
    """Collect the sampling options.

    Values that the generator checks pass unchecked; its errors name the same fields.
    """
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    given: dict[str, Any] = {name: body[name] for name in names if body.get(name) is not None}
    for name in max_tokens:
        if body.get(name) is not None:
            given["max_tokens"] = _whole(body[name], name, 1, 2**31 - 1)
            break
    if body.get("seed") is not None:
        given["seed"] = _whole(body["seed"], "seed", -MAX_SEED, MAX_SEED - 1) % MAX_SEED
    stop = body.get("stop")
    if stop is not None:
        given["stop"] = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop
    return replace(defaults, **given)


def _chat_logprobs(body: JsonBody) -> int | None:
    top = body.get("top_logprobs")
    if not _flag(body, "logprobs"):
        if top is not None:
            _refuse("top_logprobs", "needs `logprobs`: true.")
        return None
    return 0 if top is None else _whole(top, "top_logprobs", 0, 20)


def _response_schema(body: JsonBody) -> str | None:
    wanted = body.get("response_format")
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return '{"type": "object"}'
    described = wanted.get("json_schema") if kind == "json_schema" else None
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        _refuse("response_format", "must have the type text, json_object, or json_schema with a `json_schema.schema`.")
    return json.dumps(described["schema"])


def _tools(tools: Any) -> tuple[str, ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        _refuse("tools", f"must be a list of at most {MAX_TOOLS} functions.")
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            _refuse(f"tools[{place}]", 'must be {"type": "function", "function": {"name": ...}}.')
        if not isinstance(function.get("parameters", {}), dict | None):
            _refuse(f"tools[{place}].function.parameters", "must be a JSON schema.")
    return tuple(json.dumps(tool) for tool in tools)


def _forced_tools(choice: Any, tools: tuple[str, ...]) -> tuple[str, ...]:
    if choice in (None, "none", "auto"):
        return ()
    names = tuple(json.loads(tool)["function"]["name"] for tool in tools)
    if choice == "required" and names:
        return names
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in names:
        _refuse("tool_choice", "must be none, auto, required, or name one of the tools.")
    return (name,)


def _messages(messages: Any) -> tuple[ChatMessage, ...]:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        _refuse("messages", f"must be a list of 1 to {MAX_MESSAGES} messages.")
    return tuple(_message(message, f"messages[{place}]") for place, message in enumerate(messages))


def _message(message: Any, field: str) -> ChatMessage:
    if not isinstance(message, dict):
        _refuse(field, "must be an object.")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        _refuse(f"{field}.role", f"must be one of {', '.join(ROLES)}.")
    calls = _tool_calls(message.get("tool_calls"), f"{field}.tool_calls") if role == "assistant" else ()
    content = message.get("content")
    if content is None and calls:
        content = ""
    call_id = message.get("tool_call_id") if role == "tool" else ""
    if not isinstance(call_id, str):
        _refuse(f"{field}.tool_call_id", "must be a text.")
    return ChatMessage(ROLES[role], _content(content, f"{field}.content"), calls, call_id)


def _storable(text: str) -> str:
    """Replace lone surrogates, which no encoding takes."""
    return text.encode(errors="replace").decode()


def _content(content: Any, field: str) -> str:
    if isinstance(content, str):
        return _storable(content)
    if not isinstance(content, list) or not content:
        _refuse(field, "must be a text or a list of parts.")
    texts = []
    for place, part in enumerate(content):
        kind = str(part.get("type")) if isinstance(part, dict) else ""
        if kind in ("text", "refusal") and isinstance(part.get(kind), str):
            texts.append(_storable(part[kind]))
        elif kind in PLACEHOLDERS:
            texts.append(PLACEHOLDERS[kind])
        else:
            _refuse(f"{field}[{place}]", f"must be a part of type text, {', '.join(PLACEHOLDERS)}.")
    return "\n".join(texts)


def _tool_calls(calls: Any, field: str) -> tuple[ToolCall, ...]:
    if calls is None:
        return ()
    if not isinstance(calls, list):
        _refuse(field, "must be a list.")
    found = []
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        values = [call.get("id"), function.get("name"), function.get("arguments")] if isinstance(function, dict) else []
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) != 3:
            _refuse(f"{field}[{place}]", "must have an `id` and a `function` with `name` and `arguments` as texts.")
        found.append(ToolCall(*texts))
    return tuple(found)


# Fields of both requests in the OpenAPI document. Other fields are ignored, or refused as not supported.
_NAME = TEXT | {"minLength": 1}
_FLAG = nullable(BOOLEAN)
_COUNT = nullable(INTEGER)
_OPTIONS = {
    "temperature": nullable(NUMBER) | {"minimum": 0, "maximum": 10},
    "top_p": nullable(NUMBER) | {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": _COUNT | {"minimum": 0},
    "min_p": nullable(NUMBER) | {"minimum": 0, "maximum": 1},
    "repetition_penalty": nullable(NUMBER) | {"minimum": 0.1, "maximum": 10},
    "presence_penalty": nullable(NUMBER) | {"minimum": -2, "maximum": 2},
    "frequency_penalty": nullable(NUMBER) | {"minimum": -2, "maximum": 2},
    "max_tokens": _COUNT | {"minimum": 1},
    "seed": about(_COUNT, "The same seed gives the same text, whatever else is running."),
    "stop": {"anyOf": [_NAME, array(_NAME, maxItems=16), NULL]},
    "n": _COUNT | {"minimum": 1, "maximum": MAX_CHOICES},
    "stream": _FLAG,
    "stream_options": nullable(record({}, {"include_usage": _FLAG})),
}
_MODEL = {"model": about(_NAME, "The base model, or a version of it.")}
_PART = record({"type": one_of_values("text", "refusal", *PLACEHOLDERS)}, {"text": TEXT})
_MESSAGE = record(
    {"role": one_of_values(*ROLES)},
    {
        "content": {"anyOf": [TEXT, array(_PART, minItems=1), NULL]},
        "tool_calls": nullable(array(OBJECT)),
        "tool_call_id": TEXT,
    },
)
SCHEMAS = {
    "ChatCompletionRequest": record(
        {**_MODEL, "messages": array(_MESSAGE, minItems=1, maxItems=MAX_MESSAGES)},
        {
            **_OPTIONS,
            "max_completion_tokens": _COUNT | {"minimum": 1},
            "logprobs": _FLAG,
            "top_logprobs": _COUNT | {"minimum": 0, "maximum": 20},
            "response_format": about(
                nullable(record({}, {"type": one_of_values("text", "json_object", "json_schema")})),
                "text, json_object, or json_schema with a schema that the reply will satisfy.",
            ),
            "tools": nullable(array(OBJECT, maxItems=MAX_TOOLS)),
            "tool_choice": {"description": "none, auto, required, or one function."},
            "metadata": nullable(
                record(
                    {},
                    {
                        "conversation": about(
                            nullable(TEXT),
                            "Continue this stored conversation: only the last message is read, and stored.",
                        )
                        | {"maxLength": 128}
                    },
                )
            ),
        },
    ),
    "CompletionRequest": record(
        {**_MODEL, "prompt": _NAME}, {**_OPTIONS, "logprobs": _COUNT | {"minimum": 0, "maximum": 20}}
    ),
}
