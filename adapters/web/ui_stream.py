"""AI SDK UI message stream, version 1: live replies as server-sent events.

The protocol of npm `ai` 5 to 7, https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapters.article_links import SourceLink
from adapters.http.markdown import Citation, render_markdown, settled_length
from adapters.http.openapi import TEXT, about, const, one_of_values, record, ref
from adapters.http.sse import DONE, PING, sse_event
from bot.chat.live import Ended, LiveEvent, LiveEvents, Started, Text
from storage.values import Part, ReplyState

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}  # beside those of every event stream
SLOW_CHARS = 500
_FINISH_REASONS: dict[ReplyState, str] = {"answered": "stop", "stopped": "other", "refused": "other", "failed": "error"}


def source_part(source: Part, link: SourceLink) -> dict[str, Any]:
    """Convert a cited source to the AI SDK's form: `source-url`, or `source-document` without a reachable address."""
    about = {"sourceId": str(source["number"]), "title": source["title"]}
    if url := link(source):
        return {"type": "source-url", "url": url, **about}
    return {"type": "source-document", "mediaType": "text/plain", **about}


def citations(sources: Sequence[Part], link: SourceLink) -> tuple[Citation, ...]:
    """Return the targets of the marks in a reply's text, without those that have no address."""
    return tuple(Citation(source["number"], source["title"], url) for source in sources if (url := link(source)))


class UiStream:
    """Encodes one reader's stream.

    `html` adds rendered blocks for our own chat component. `link` returns the address of a cited source.
    """

    def __init__(self, *, html: bool = False, link: SourceLink = lambda _: None) -> None:
        self._html = html
        self._link = link
        self._reply_id: str | None = None
        self._text = ""
        self._text_open = False
        self._rendered = 0
        self.finished = False

    @property
    def is_slow(self) -> bool:
        """Return True if rendering takes long enough to be done in a thread."""
        return self._html and len(self._text) > SLOW_CHARS

    def encode(self, batch: LiveEvents) -> bytes:
        """Encode events. Empty if they change nothing for the reader, and after the stream's end."""
        return b"".join(self._encode(event) for event in batch if not self.finished)

    def _encode(self, event: LiveEvent) -> bytes:
        if isinstance(event, Started):
            return self._started(event.reply_id)
        if isinstance(event, Text):
            return self._more(event.text)
        if isinstance(event, Ended):
            return self._ended(event)
        return PING

    def broken_off(self, reason: str) -> bytes:
        """End the stream while its reply goes on elsewhere; the reader is to resume."""
        self.finished = True
        return self._close_text() + sse_event({"type": "abort", "reason": reason}) + DONE

    def _started(self, reply_id: str) -> bytes:
        if self._text and not self._html:
            return self.broken_off("restarted")  # these clients can't take text back
        again = self._reply_id is not None
        if again and self._reply_id == reply_id and not self._text:
            return b""
        closing = self._close_text() if again else b""
        self._reply_id, self._text, self._rendered = reply_id, "", 0
        step = b"" if again else sse_event({"type": "start-step"})
        return closing + sse_event({"type": "start", "messageId": reply_id}) + step

    def _more(self, text: str) -> bytes:
        opening = b"" if self._text_open else sse_event({"type": "text-start", "id": "text"})
        self._text_open = True
        self._text += text
        return opening + sse_event({"type": "text-delta", "id": "text", "delta": text}) + self._render_settled()

    def _render_settled(self) -> bytes:
        if not self._html:
            return b""
        settled = settled_length(self._text)
        if settled <= self._rendered:
            return b""
        self._rendered = settled
        return self._rendering(settled)

    def _rendering(self, length: int, cited: tuple[Citation, ...] = ()) -> bytes:
        data = {"html": render_markdown(self._text[:length], cited), "tail": self._text[length:]}
        return sse_event({"type": "data-html", "transient": True, "data": data})

    def _ended(self, event: Ended) -> bytes:
        self.finished = True
        rendering = self._rendering(len(self._text), citations(event.sources, self._link)) if self._html else b""
        metadata = {"state": event.state}
        sources = b"".join(sse_event(source_part(source, self._link)) for source in event.sources)
        body = rendering + self._close_text() + sources + sse_event({"type": "finish-step"})
        if event.state == "stopped":
            body += sse_event({"type": "message-metadata", "messageMetadata": metadata})
            return body + sse_event({"type": "abort", "reason": "stopped"}) + DONE
        reason = event.reason or _FINISH_REASONS[event.state]
        return body + sse_event({"type": "finish", "finishReason": reason, "messageMetadata": metadata}) + DONE

    def _close_text(self) -> bytes:
        if not self._text_open:
            return b""
        self._text_open = False
        return sse_event({"type": "text-end", "id": "text"})


def _part(title: str, kind: dict[str, Any], fields: dict[str, Any], description: str = "") -> dict[str, Any]:
    described = {"description": description} if description else {}
    return {"title": title, **described, **record({"type": kind, **fields}, closed=True)}


SCHEMAS = {
    "StreamEvent": about(
        record(
            {
                "data": {
                    "anyOf": [
                        const("[DONE]"),
                        TEXT | {"contentMediaType": "application/json", "contentSchema": ref("StreamPart")},
                    ]
                }
            }
        ),
        "One server-sent event `data: {part}`; comments in between keep the connection open. A stream that ends "
        "without `[DONE]` broke off: read it again from GET /api/chat/{id}/stream.",
    ),
    "StreamPart": {
        "description": "One part of a reply's stream, in this order: start, start-step, then texts, at last finish or "
        "abort.",
        "oneOf": [
            _part(
                "start", const("start"), {"messageId": about(TEXT, "The reply's id, and the stream's id for a stop.")}
            ),
            _part("step", one_of_values("start-step", "finish-step"), {}),
            _part("text", one_of_values("text-start", "text-end"), {"id": TEXT}),
            _part("text-delta", const("text-delta"), {"id": TEXT, "delta": TEXT}),
            _part(
                "data-html",
                const("data-html"),
                {"transient": const(True), "data": record({"html": TEXT, "tail": TEXT}, closed=True)},
                "With html=1: the settled beginning as HTML, and the rest as text.",
            ),
            _part("message-metadata", const("message-metadata"), {"messageMetadata": ref("StreamMetadata")}),
            _part(
                "finish",
                const("finish"),
                {
                    "finishReason": one_of_values("stop", "length", "content-filter", "tool-calls", "error", "other"),
                    "messageMetadata": ref("StreamMetadata"),
                },
            ),
            _part(
                "abort",
                const("abort"),
                {"reason": TEXT},
                "`stopped`: a person stopped the reply. Any other: the reply goes on elsewhere, resume the stream.",
            ),
        ],
    },
    "StreamMetadata": record({"state": ref("ReplyState")}, closed=True),
    "ReplyState": one_of_values("answered", "stopped", "refused", "failed"),
}
