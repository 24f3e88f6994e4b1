"""OpenAPI 3.1 document, assembled at start from a fragment of each API.

The APIs declare their `Fragment` beside their handlers. The functions below it build the schemas and operations that
all fragments repeat.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

JsonObject = dict[str, Any]

TEXT: JsonObject = {"type": "string"}
NUMBER: JsonObject = {"type": "number"}
INTEGER: JsonObject = {"type": "integer"}
BOOLEAN: JsonObject = {"type": "boolean"}
OBJECT: JsonObject = {"type": "object"}
NULL: JsonObject = {"type": "null"}

_ABOUT = (
    "The web chat (/api), whose replies are streamed in the AI SDK's UI message stream, version 1, and the model API "
    '(/v1) in OpenAI\'s form. Every error of the first is `{"error": {code, message, requestId}}`, every error of the '
    'second `{"error": {message, type, param, code}}`.'
)


@dataclass(frozen=True, slots=True)
class Fragment:
    """Part of the document that describes one API.

    `operations` are keyed by method and path, as `GET /api/chats`; `tags` hold descriptions by name.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    operations: Mapping[str, JsonObject] = field(default_factory=dict)
    schemas: Mapping[str, JsonObject] = field(default_factory=dict)
    responses: Mapping[str, JsonObject] = field(default_factory=dict)
    parameters: Mapping[str, JsonObject] = field(default_factory=dict)
    headers: Mapping[str, JsonObject] = field(default_factory=dict)
    security: Mapping[str, JsonObject] = field(default_factory=dict)


@runtime_checkable
class Documented(Protocol):
    """An API for other people's programs. The document has no pages, and no routes that only our own pages call."""

    def document(self) -> Fragment: ...


def assemble(fragments: Collection[Fragment]) -> JsonObject:
    """Join the fragments to the whole document. Raises `ValueError` if two declare the same name."""
    paths: dict[str, JsonObject] = {}
    for key, operation_ in _union(fragment.operations for fragment in fragments).items():
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
        "tags": [
            {"name": name, "description": about} for fragment in fragments for name, about in fragment.tags.items()
        ],
        "paths": paths,
        "components": {
            "securitySchemes": _union(fragment.security for fragment in fragments),
            "parameters": _union(fragment.parameters for fragment in fragments),
            "headers": _union(fragment.headers for fragment in fragments),
            "responses": _union(fragment.responses for fragment in fragments),
            "schemas": _union(fragment.schemas for fragment in fragments),
        },
    }


def _union(parts: Iterable[Mapping[str, JsonObject]]) -> JsonObject:
    whole: JsonObject = {}
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
    answers: Mapping[int, JsonObject],
    errors: Mapping[int, str],
    *,
    security: list[JsonObject],
    body: JsonObject | None = None,
    parameters: Iterable[JsonObject] = (),
    description: str = "",
) -> JsonObject:
    """Build an operation. `errors` name response components by status; `body` is the JSON schema of the request."""
    named = {status: {"$ref": f"#/components/responses/{name}"} for status, name in errors.items()}
    whole: JsonObject = {"operationId": operation_id, "tags": [tag], "summary": summary, "security": security}
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
    schema: JsonObject | None = None,
    media: str = "application/json",
    headers: Mapping[str, JsonObject] | None = None,
) -> JsonObject:
    """Build a response; without a schema it has no body."""
    request_id = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    content = {} if schema is None else {"content": _content(schema, media)}
    return {"description": description, "headers": {**request_id, **(headers or {})}, **content}


def error_answer(description: str, form: str, *, retry_after: bool = False) -> JsonObject:
    """Build an error response; `form` names the schema of its body."""
    headers = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}} if retry_after else {}
    return answer(description, ref(form), headers=headers)


def _content(schema: JsonObject, media: str = "application/json") -> JsonObject:
    return {media: {"schema": schema}}


# Schemas.


def ref(name: str) -> JsonObject:
    """Refer to a schema of the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(
    required: Mapping[str, JsonObject], optional: Mapping[str, JsonObject] | None = None, *, closed: bool = False
) -> JsonObject:
    """Build an object schema from its fields. `closed` forbids others."""
    whole: JsonObject = {"type": "object"}
    if required:
        whole["required"] = list(required)
    if closed:
        whole["additionalProperties"] = False
    return {**whole, "properties": {**required, **(optional or {})}}


def array(items: JsonObject, **limits: Any) -> JsonObject:
    return {"type": "array", "items": items, **limits}


def nullable(schema: JsonObject) -> JsonObject:
    """Allow null beside the schema."""
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"oneOf": [schema, NULL]}


def const(value: Any) -> JsonObject:
    return {"const": value}


def one_of_values(*values: Any) -> JsonObject:
    return {"enum": list(values)}


def about(schema: JsonObject, description: str) -> JsonObject:
    """Add a description to a schema."""
    return {**schema, "description": description}
