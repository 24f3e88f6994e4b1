"""OpenAPI fragment of the web chat, and helpers for visitor operations."""

from __future__ import annotations

from adapters.http.openapi import (
    BOOLEAN,
    INTEGER,
    OBJECT,
    TEXT,
    Fragment,
    JsonObject,
    about,
    answer,
    array,
    const,
    error_answer,
    nullable,
    one_of_values,
    operation,
    record,
    ref,
)
from adapters.http.requests import ID_SCHEMA
from adapters.web.ui_stream import SCHEMAS

CHAT_ID = {"$ref": "#/components/parameters/ChatId"}
OPINION = {
    "value": about(one_of_values(1, -1), "1 is good, -1 is bad."),
    "reason": about(nullable(TEXT), "What was good or wrong."),
    "better": about(nullable(TEXT), "What would have been a better answer."),
}
_OF_VISITORS: list[JsonObject] = [{"visitorToken": []}, {"visitorCookie": []}]
_ERRORS = {
    400: "BadRequest",
    401: "NotAuthenticated",
    403: "NotAllowed",
    404: "NotFound",
    409: "Conflict",
    413: "TooLarge",
    429: "TooMany",
    500: "Failed",
    503: "Unavailable",
}
_HTML = {
    "name": "html",
    "in": "query",
    "required": False,
    "description": "1 adds `data-html` parts: the reply so far as sanitised HTML.",
    "schema": TEXT,
    "example": "1",
}
_PROTOCOL = {
    "x-vercel-ai-ui-message-stream": {
        "description": "The version of the protocol.",
        "required": True,
        "schema": const("v1"),
    }
}


def visitor_operation(
    operation_id: str,
    summary: str,
    *answers: JsonObject,
    parameters: tuple[JsonObject, ...] = (),
    body: JsonObject | None = None,
    errors: tuple[int, ...] = (),
    description: str = "",
) -> JsonObject:
    """Build an operation for visitors. The second answer, if any, has status 204."""
    statuses = {401, 500, 503, *errors}
    if CHAT_ID in parameters:
        statuses |= {400, 404}
    if body is not None:
        statuses |= {400, 403, 413}
    return operation(
        operation_id,
        "chat",
        summary,
        dict(zip((200, 204), answers, strict=False)),
        {status: _ERRORS[status] for status in statuses},
        security=_OF_VISITORS,
        body=body,
        parameters=parameters,
        description=description,
    )


def _stream(description: str) -> JsonObject:
    return answer(description, ref("StreamEvent"), "text/event-stream", _PROTOCOL)


DOCUMENT = Fragment(
    tags={"chat": "A visitor's conversations"},
    operations={
        "GET /api/config": operation(
            "getConfig",
            "chat",
            "Settings of the chat page",
            {200: answer("Title, greeting and limits of this installation.", ref("Config"))},
            {500: "Failed"},
            security=[],
        ),
        "POST /api/visitor": operation(
            "welcomeVisitor",
            "chat",
            "Create a visitor, or renew the token of a known one",
            {
                200: answer(
                    "The visitor's id and token.",
                    ref("Visitor"),
                    headers={
                        "Set-Cookie": {"description": "`myna_visitor`, for this server's own pages.", "schema": TEXT}
                    },
                )
            },
            {status: _ERRORS[status] for status in (400, 403, 413, 500)},
            security=[{}, *_OF_VISITORS],
            body=OBJECT,
            description="Sets the cookie, and returns a token for pages of other sites, where cookies don't work. A "
            "token is valid for the origin that requested it.",
        ),
        "GET /api/chats": visitor_operation(
            "listChats",
            "List the visitor's chats, the most recently used first",
            answer("At most 100 chats.", record({"chats": array(ref("ChatSummary"), maxItems=100)})),
        ),
        "POST /api/chat": visitor_operation(
            "sendMessage",
            "Send a message, edit one, or ask for another reply",
            _stream("The reply, from its start."),
            parameters=(_HTML,),
            body={"oneOf": [ref("SubmitMessage"), ref("RegenerateMessage")]},
            errors=(404, 409),
            description="Once the stream begins, the message is stored and will get exactly one reply, whether the "
            "client stays or not. A second delivery of the same message id changes nothing and streams the same reply.",
        ),
        "GET /api/chat/{id}": visitor_operation(
            "getChat", "Read a chat", answer("The last 200 messages, oldest first.", ref("Chat")), parameters=(CHAT_ID,)
        ),
        "GET /api/chat/{id}/stream": visitor_operation(
            "resumeStream",
            "Stream the running reply from its start",
            _stream("The running reply."),
            answer("No reply is running; the chat's messages are complete."),
            parameters=(CHAT_ID, _HTML),
        ),
        "POST /api/chat/{id}/stop": visitor_operation(
            "stopReply",
            "Stop the running reply and keep its text so far",
            answer("`stopped` is true if a reply was stopped.", record({"stopped": BOOLEAN})),
            parameters=(CHAT_ID,),
            body=ref("Stop"),
        ),
    },
    security={
        "visitorToken": {
            "type": "http",
            "scheme": "bearer",
            "description": "The token from POST /api/visitor. Valid for 30 days, for the origin that requested it or "
            "for requests without an origin.",
        },
        "visitorCookie": {
            "type": "apiKey",
            "in": "cookie",
            "name": "myna_visitor",
            "description": "Set by POST /api/visitor. Requests that change something must also carry an allowed "
            "Origin, as browsers send it.",
        },
    },
    parameters={
        "ChatId": {
            "name": "id",
            "in": "path",
            "required": True,
            "description": "The chat's id, chosen by the client.",
            "schema": ref("Id"),
        }
    },
    responses={
        "NotAuthenticated": error_answer("No valid token or cookie. Ask POST /api/visitor.", "Error"),
        "NotFound": error_answer("There is no such chat, or it is somebody else's.", "Error"),
        "Conflict": error_answer("No longer possible, such as an edit of a message that is gone.", "Error"),
    },
    schemas={
        **SCHEMAS,
        "Id": ID_SCHEMA,
        "Time": about(INTEGER, "Milliseconds since 1970."),
        "Config": record(
            {
                "title": TEXT,
                "greeting": about(TEXT, "Empty: the page chooses."),
                "maxMessageChars": INTEGER | {"minimum": 1},
            }
        ),
        "Visitor": record({"visitor": TEXT | {"minLength": 1}, "token": TEXT | {"minLength": 1}}),
        "TextPart": record({"type": const("text"), "text": TEXT}),
        "UserMessage": record(
            {"id": ref("Id"), "role": const("user"), "parts": array(ref("TextPart"), minItems=1, maxItems=100)}
        ),
        "SubmitMessage": about(
            record(
                {
                    "id": ref("Id"),
                    "messages": about(
                        array({"anyOf": [ref("UserMessage"), OBJECT]}, minItems=1),
                        "Only the last is read, and must be a UserMessage; earlier ones may be sent along, as the AI "
                        "SDK does.",
                    ),
                },
                {
                    "trigger": const("submit-message") | {"default": "submit-message"},
                    "messageId": about(
                        nullable(ref("Id")), "The message that is edited; it and all after it are set aside."
                    ),
                    "mayLearn": about(
                        nullable(BOOLEAN),
                        "Learning consent for this chat, stored together with the message. Left out or null, the "
                        "choice before stays.",
                    ),
                },
            ),
            "A new message, or with `messageId` an edited one in place of that message.",
        ),
        "RegenerateMessage": record(
            {"id": ref("Id"), "trigger": const("regenerate-message")},
            {
                "messageId": about(
                    nullable(ref("Id")),
                    "The reply to give again, or the message to answer again; only the last one can be. Null: the "
                    "last one.",
                ),
                "messages": {
                    "description": "If given, the last one is the message to answer. If it never arrived before, it is "
                    "accepted now."
                },
            },
        ),
        "Stop": record(
            {},
            {
                "streamId": about(
                    nullable(TEXT),
                    "The `messageId` of the stream's start. If that stream is over, nothing is stopped. Null: the "
                    "running reply.",
                )
            },
        ),
        "Message": record(
            {
                "id": TEXT,
                "role": one_of_values("user", "assistant"),
                "parts": array(ref("TextPart")),
                "html": about(nullable(TEXT), "A reply as sanitised HTML; null for the visitor's own messages."),
                "metadata": record(
                    {"state": nullable(ref("ReplyState")), "createdAt": ref("Time"), "vote": nullable(ref("Opinion"))}
                ),
            }
        ),
        "Opinion": about(record(OPINION), "The visitor's vote on a reply."),
        "ChatSummary": record({"id": ref("Id"), "title": TEXT, "updatedAt": ref("Time")}),
        "Chat": {
            "allOf": [
                ref("ChatSummary"),
                record(
                    {
                        "running": about(BOOLEAN, "A reply is being made: GET /api/chat/{id}/stream."),
                        "messages": array(ref("Message"), maxItems=200),
                    }
                ),
            ]
        },
    },
)
