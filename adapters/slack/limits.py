"""How often each method of Slack's API may be called now (docs.slack.dev/apis/web-api/rate-limits).

Knows: tiers, and what Slack last said with Retry-After. Does not know: other processes; then Slack says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

# Calls a minute, for each method and workspace; what is not listed has the third tier.
PER_MINUTE = {
    "chat_startStream": 20,
    "chat_stopStream": 20,
    "chat_appendStream": 100,
    "conversations_replies": 50,
    "chat_postEphemeral": 100,
    "users_info": 100,
    "views_open": 100,
    "assistant_threads_setStatus": 600,
}
THIRD_TIER = 50
# One message a second for each channel; short bursts are allowed.
PER_CHANNEL = {"chat_postMessage": 60}
BURST_SECONDS = 5.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float
    closed_until: float = 0.0


class RateLimits:
    """The calls of one installation. Nothing waits here; who has to is told for how long."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def take(self, method: str, channel: str) -> float:
        """0 if a call may be made now, which is then counted; else the seconds until the next may."""
        bucket, per_second, most = self._bucket(method, channel)
        now = time.monotonic()
        bucket.tokens = min(bucket.tokens + (now - bucket.filled_at) * per_second, most)
        bucket.filled_at = now
        if now < bucket.closed_until:
            return bucket.closed_until - now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / per_second
        bucket.tokens -= 1
        return 0.0

    def is_half_full(self, method: str) -> bool:
        """Whether at least half of the calls of a minute are left, as what is only nice should ask."""
        bucket, per_second, most = self._bucket(method, "")
        now = time.monotonic()
        return now >= bucket.closed_until and bucket.tokens + (now - bucket.filled_at) * per_second >= most / 2

    def close(self, method: str, channel: str, seconds: float) -> None:
        """Slack has said that there were too many calls."""
        bucket, _, _ = self._bucket(method, channel)
        bucket.closed_until = max(bucket.closed_until, time.monotonic() + seconds)

    def _bucket(self, method: str, channel: str) -> tuple[_Bucket, float, float]:
        per_minute = PER_CHANNEL.get(method) or PER_MINUTE.get(method, THIRD_TIER)
        key = (method, channel if method in PER_CHANNEL else "")
        per_second = per_minute / 60
        most = BURST_SECONDS * per_second if method in PER_CHANNEL else float(per_minute)
        if key not in self._buckets:
            self._forget_full_ones(per_second, most)
            self._buckets[key] = _Bucket(most, time.monotonic())
        return self._buckets[key], per_second, most

    def _forget_full_ones(self, per_second: float, most: float) -> None:
        """A channel in which nothing has been posted for a while is as one that was never seen."""
        if len(self._buckets) < 1000:
            return
        quiet = time.monotonic() - most / per_second
        self._buckets = {
            key: one for key, one in self._buckets.items() if max(one.filled_at, one.closed_until) > quiet or not key[1]
        }
