"""Encoding of live events as the AI SDK's UI message stream.

`tests/scenarios/test_ai_sdk_client.py` has the SDK's own view.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.http.sse import DONE, PING, sse_event
from adapters.web.ui_stream import UiStream
from bot.chat.live import Ended, LiveEvent, Started, Text, Waiting

SOURCES: tuple[dict[str, Any], ...] = (
    {"type": "source", "number": 1, "title": "Returns", "name": "returns", "article": "a", "url": None},
    {"type": "source", "number": 2, "title": "Secret", "name": "secret", "article": "b", "url": None},
)


def link(source: Any) -> str | None:
    return None if source["title"] == "Secret" else f"https://shop.example/articles/{source['name']}"


def encode(*events: LiveEvent, html: bool = False) -> tuple[list[dict[str, Any]], bool]:
    """The parts, and whether the end was marked."""
    stream = UiStream(html=html, link=link)
    return split(b"".join(stream.encode((event,)) for event in events))


def split(data: bytes) -> tuple[list[dict[str, Any]], bool]:
    assert not data or data.endswith(b"\n\n")
    events = [event for event in data.split(b"\n\n")[:-1] if event != PING.strip()]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    done = bool(events) and events[-1] == DONE.strip()
    return [json.loads(event[6:]) for event in events[: len(events) - done]], done


START = [{"type": "start", "messageId": "r1"}, {"type": "start-step"}]
OPEN = {"type": "text-start", "id": "text"}
CLOSE = {"type": "text-end", "id": "text"}


def delta(text: str) -> dict[str, Any]:
    return {"type": "text-delta", "id": "text", "delta": text}


def finish(reason: str, state: str) -> list[dict[str, Any]]:
    return [{"type": "finish-step"}, {"type": "finish", "finishReason": reason, "messageMetadata": {"state": state}}]


def test_a_reply_is_start_texts_and_finish() -> None:
    parts, done = encode(Started("r1"), Text("a"), Text("b"), Ended("answered", "stop"))
    assert parts == [*START, OPEN, delta("a"), delta("b"), CLOSE, *finish("stop", "answered")]
    assert done


def test_a_reply_without_text_opens_none() -> None:
    parts, done = encode(Started("r1"), Ended("answered", "stop"))
    assert parts == [*START, *finish("stop", "answered")]
    assert done


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Ended("answered", "length"), "length"),
        (Ended("answered"), "stop"),
        (Ended("refused"), "other"),
        (Ended("failed"), "error"),
    ],
)
def test_the_finish_says_why(event: Ended, reason: str) -> None:
    parts, _ = encode(Started("r1"), Text("a"), event)
    assert parts[-2:] == finish(reason, event.state)


def test_a_stopped_reply_ends_with_an_abort() -> None:
    parts, done = encode(Started("r1"), Text("a"), Ended("stopped"))
    metadata = {"type": "message-metadata", "messageMetadata": {"state": "stopped"}}
    assert parts[-4:] == [CLOSE, {"type": "finish-step"}, metadata, {"type": "abort", "reason": "stopped"}]
    assert done


def test_sources_come_after_the_text() -> None:
    parts, done = encode(Started("r1"), Text("a [1]"), Ended("answered", "stop", sources=SOURCES))
    about = {"sourceId": "1", "title": "Returns"}
    first = {"type": "source-url", "url": "https://shop.example/articles/returns", **about}
    second = {"type": "source-document", "mediaType": "text/plain", "sourceId": "2", "title": "Secret"}
    assert parts == [*START, OPEN, delta("a [1]"), CLOSE, first, second, *finish("stop", "answered")]
    assert done


def test_marks_become_links_when_the_reply_is_over() -> None:
    parts, _ = encode(Started("r1"), Text("a [1]\n\nb [2]"), Ended("answered", "stop", sources=SOURCES), html=True)
    last = [part["data"]["html"] for part in parts if part["type"] == "data-html"][-1]
    assert '<a href="https://shop.example/articles/returns" title="Returns" class="cite"' in last
    assert ">[1]</a>" in last
    assert "b [2]" in last


def test_silence_is_a_comment() -> None:
    assert UiStream().encode((Waiting(),)) == b": ping\n\n"


def test_a_restart_before_the_text_is_not_sent() -> None:
    parts, _ = encode(Started("r1"), Started("r1"), Text("a"))
    assert parts == [*START, OPEN, delta("a")]


def test_a_turn_taken_over_before_its_text_sends_its_new_id() -> None:
    parts, done = encode(Started("r1"), Started("r2"), Text("a"), Ended("answered", "stop"))
    again = {"type": "start", "messageId": "r2"}
    assert parts == [*START, again, OPEN, delta("a"), CLOSE, *finish("stop", "answered")]
    assert done


def test_a_restart_after_text_ends_an_sdk_clients_stream() -> None:
    stream = UiStream()
    data = stream.encode((Started("r1"), Text("a"))) + stream.encode((Started("r1"), Text("abc"), Ended("answered")))
    assert split(data) == ([*START, OPEN, delta("a"), CLOSE, {"type": "abort", "reason": "restarted"}], True)
    assert stream.finished


@pytest.mark.parametrize("again", ["r1", "r2"])
def test_a_restart_after_text_starts_our_own_page_over(again: str) -> None:
    parts, done = encode(Started("r1"), Text("a"), Started(again), Text("b"), Ended("answered", "stop"), html=True)
    shown = [part for part in parts if part["type"] != "data-html"]
    renewed = {"type": "start", "messageId": again}
    assert shown == [*START, OPEN, delta("a"), CLOSE, renewed, OPEN, delta("b"), CLOSE, *finish("stop", "answered")]
    last = [part for part in parts if part["type"] == "data-html"][-1]
    assert last["data"] == {"html": "<p>b</p>\n", "tail": ""}
    assert done


def test_html_comes_with_each_settled_block_and_at_the_end() -> None:
    parts, _ = encode(Started("r1"), Text("*a*\n\nb"), Text("c"), Text("\n\nd"), Ended("answered"), html=True)
    rendered = [part["data"] for part in parts if part["type"] == "data-html"]
    assert rendered == [
        {"html": "<p><em>a</em></p>\n", "tail": "b"},
        {"html": "<p><em>a</em></p>\n<p>bc</p>\n", "tail": "d"},
        {"html": "<p><em>a</em></p>\n<p>bc</p>\n<p>d</p>\n", "tail": ""},
    ]
    assert all(part["transient"] for part in parts if part["type"] == "data-html")


def test_a_stream_that_breaks_off_closes_its_text_and_aborts() -> None:
    stream = UiStream()
    data = stream.encode((Started("r1"), Text("a"))) + stream.broken_off("restarting")
    assert split(data) == ([*START, OPEN, delta("a"), CLOSE, {"type": "abort", "reason": "restarting"}], True)
    assert stream.finished


def test_a_stream_that_breaks_off_before_its_start_is_valid() -> None:
    assert split(UiStream().broken_off("restarting")) == ([{"type": "abort", "reason": "restarting"}], True)


@given(st.text())
def test_any_text_arrives_unchanged_in_one_line(text: str) -> None:
    encodable = text.encode("utf-8", "replace").decode()
    event = sse_event(delta(encodable))
    assert event.count(b"\n") == 2
    assert split(event) == ([delta(encodable)], False)


events = st.lists(
    st.one_of(
        st.sampled_from([Started("r1"), Started("r2"), Waiting()]),
        st.builds(Text, st.sampled_from(["a", "b\n\n", "```\n", "*c*", "[DONE]", "data: x"])),
    ),
    max_size=12,
)


@given(events, st.sampled_from([Ended("answered", "stop"), Ended("stopped"), Ended("failed")]), st.booleans())
def test_whatever_happens_the_protocol_is_kept(middle: list[LiveEvent], end: Ended, html: bool) -> None:
    """Texts are opened before they grow and closed before the end, and nothing follows the end."""
    stream = UiStream(html=html)
    data = b""
    for event in [Started("r1"), *middle, end]:
        data += stream.encode((event,))
        if stream.finished:
            break
    parts, done = split(data)
    assert done
    assert parts[0]["type"] == "start"
    assert [part["type"] in ("finish", "abort") for part in parts] == [False] * (len(parts) - 1) + [True]
    is_open = False
    for part in parts:
        if part["type"] == "text-start":
            assert not is_open
            is_open = True
        elif part["type"] == "text-end":
            assert is_open
            is_open = False
        elif part["type"] == "text-delta":
            assert is_open
        elif part["type"] != "data-html":
            assert not is_open
