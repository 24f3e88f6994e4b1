"""The OpenAPI document (3.1), assembled at start from the fragments that the APIs declare beside their handlers.

`Fragment` is what an API adds; the functions below it write the forms that all fragments repeat.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
INTEGER: Json = {"type": "integer"}
BOOLEAN: Json = {"type": "boolean"}
OBJECT: Json = {"type": "object"}
NULL: Json = {"type": "null"}

_ABOUT = (
    "The web chat (/api), whose replies are streamed in the AI SDK's UI message stream, version 1, and the model API "
    '(/v1) in OpenAI\'s form. Every error of the first is `{"error": {code, message, requestId}}`, every error of the '
    'second `{"error": {message, type, param, code}}`.'
)


@dataclass(frozen=True, slots=True)
class Fragment:
    """The part of one API. `operations` are keyed as `GET /api/chats`, `tags` hold descriptions by name."""

    tags: Mapping[str, str] = field(default_factory=dict)
    operations: Mapping[str, Json] = field(default_factory=dict)
    schemas: Mapping[str, Json] = field(default_factory=dict)
    responses: Mapping[str, Json] = field(default_factory=dict)
    parameters: Mapping[str, Json] = field(default_factory=dict)
    headers: Mapping[str, Json] = field(default_factory=dict)
    security: Mapping[str, Json] = field(default_factory=dict)


@runtime_checkable
class Documented(Protocol):
    """An API for programs of others. Pages, and the routes that only our own pages call, are not in the document."""

    def document(self) -> Fragment: ...


def assemble(fragments: Collection[Fragment]) -> Json:
    """The whole document. Raises `ValueError` if two fragments declare the same name."""
    paths: dict[str, Json] = {}
    for key, operation_ in _union(one.operations for one in fragments).items():
        method, _, path = key.partition(" ")
        paths.setdefault(path, {})[method.lower()] = operation_
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Myna",
            "version": "1.0.0",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for one in fragments for name, about in one.tags.items()],
        "paths": paths,
        "components": {
            "securitySchemes": _union(one.security for one in fragments),
            "parameters": _union(one.parameters for one in fragments),
            "headers": _union(one.headers for one in fragments),
            "responses": _union(one.responses for one in fragments),
            "schemas": _union(one.schemas for one in fragments),
        },
    }


def _union(parts: Iterable[Mapping[str, Json]]) -> Json:
    whole: Json = {}
    for part in parts:
        if twice := whole.keys() & part.keys():
            raise ValueError(f"two fragments of the OpenAPI document declare {sorted(twice)}")
        whole |= part
    return whole


# Operations and answers.


def operation(
    operation_id: str,
    tag: str,
    summary: str,
    answers: Mapping[int, Json],
    errors: Mapping[int, str],
    *,
    security: list[Json],
    body: Json | None = None,
    parameters: Iterable[Json] = (),
    description: str = "",
) -> Json:
    """One operation. `errors` name components by status, `body` is the schema of the JSON that is sent."""
    named = {status: {"$ref": f"#/components/responses/{name}"} for status, name in errors.items()}
    whole: Json = {"operationId": operation_id, "tags": [tag], "summary": summary, "security": security}
    if description:
        whole["description"] = description
    if parameters := list(parameters):
        whole["parameters"] = parameters
    if body is not None:
        whole["requestBody"] = {"required": True, "content": _content(body)}
    whole["responses"] = {str(status): answer_ for status, answer_ in sorted({**answers, **named}.items())}
    return whole


def answer(
    description: str,
    schema: Json | None = None,
    media: str = "application/json",
    headers: Mapping[str, Json] | None = None,
) -> Json:
    """An answer of any status; without a schema it has no body."""
    request_id = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    content = {} if schema is None else {"content": _content(schema, media)}
    return {"description": description, "headers": {**request_id, **(headers or {})}, **content}


def error_answer(description: str, form: str, *, retry_after: bool = False) -> Json:
    """An answer in an API's form of errors."""
    headers = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}} if retry_after else {}
    return answer(description, ref(form), headers=headers)


def _content(schema: Json, media: str = "application/json") -> Json:
    return {media: {"schema": schema}}


# Schemas.


def ref(name: str) -> Json:
    """A schema of the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(required: Mapping[str, Json], optional: Mapping[str, Json] | None = None, *, closed: bool = False) -> Json:
    """An object by its fields. A `closed` one has no others."""
    whole: Json = {"type": "object"}
    if required:
        whole["required"] = list(required)
    if closed:
        whole["additionalProperties"] = False
    return {**whole, "properties": {**required, **(optional or {})}}


def array(items: Json, **limits: Any) -> Json:
    return {"type": "array", "items": items, **limits}


def nullable(schema: Json) -> Json:
    """The schema or null."""
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"oneOf": [schema, NULL]}


def const(value: Any) -> Json:
    return {"const": value}


def one_of_values(*values: Any) -> Json:
    return {"enum": list(values)}


def about(schema: Json, description: str) -> Json:
    """The schema with a description."""
    return {**schema, "description": description}
