"""Prometheus metrics, and the turn log: one line for each turn."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

turns = logging.getLogger("myna.turn")

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters, histograms and gauges of an installation."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.accepted = Counter("myna_messages_accepted", "Messages stored", ["channel"], registry=registry)
        self.duplicates = Counter(
            "myna_messages_duplicate", "Second deliveries that changed nothing", ["channel"], registry=registry
        )
        self.refused = Counter("myna_requests_refused", "Requests answered with an error", ["code"], registry=registry)
        self.replies = Counter("myna_replies", "Replies stored", ["channel", "state"], registry=registry)
        self.retries = Counter(
            "myna_reply_retries", "Turns given back to be tried again", ["reason"], registry=registry
        )
        self.first_piece = Histogram(
            "myna_first_piece_seconds", "From claim to the first piece", buckets=_SECONDS, registry=registry
        )
        self.reply_seconds = Histogram(
            "myna_reply_seconds", "From claim to the stored reply", buckets=_SECONDS, registry=registry
        )
        self.looked_up = Counter(
            "myna_looked_up", "Questions by what the articles say to them", ["verdict"], registry=registry
        )
        self.invented = Counter(
            "myna_replies_invented", "Replies that had facts nobody told, by what was done", ["done"], registry=registry
        )
        self.tokens = Counter("myna_tokens", "Tokens read and written by the model", ["kind"], registry=registry)
        self.api_requests = Counter(
            "myna_api_requests", "Requests to the model API", ["endpoint", "outcome"], registry=registry
        )
        self.running = Gauge("myna_replies_running", "Replies being made now", registry=registry)
        self.streams = Gauge("myna_streams_open", "Clients that read a stream now", registry=registry)

    def render(self) -> bytes:
        """Render the Prometheus text format."""
        return generate_latest(self.registry)


def log_turn(
    *,
    reply_id: str,
    channel: str,
    state: str,
    version: str | None,
    waited_ms: int | None = None,
    first_ms: int | None = None,
    total_ms: int | None = None,
) -> None:
    """Log the end of a turn, without any of its words. A dash stands for a value that is unknown or does not apply.

    `state` is the state of the stored reply, or the reason for a turn that ended without a reply. `waited_ms` counts
    from the oldest message to the turn's start, the others from the turn's start.
    """
    fields = {
        "reply": reply_id,
        "channel": channel,
        "state": state,
        "version": version,
        "waited_ms": waited_ms,
        "first_ms": first_ms,
        "total_ms": total_ms,
    }
    turns.info("turn %s", " ".join(f"{name}={'-' if value is None else value}" for name, value in fields.items()))
