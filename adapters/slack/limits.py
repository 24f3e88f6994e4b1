"""Rate limits of Slack's methods as token buckets, with Retry-After.

Tiers are those of docs.slack.dev/apis/web-api/rate-limits. Calls of other processes are not counted here; Slack then
answers with Retry-After.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

# Calls a minute for each method and workspace; methods that are not listed have the third tier.
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
    """Rate limits of one installation. Methods never wait; they return the seconds that the caller has to."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def take(self, method: str, channel: str) -> float:
        """Count a call and return 0, or return the seconds until the next call is allowed."""
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
        """Return True if at least half of a minute's calls are left; optional calls ask for it."""
        bucket, per_second, most = self._bucket(method, "")
        now = time.monotonic()
        return now >= bucket.closed_until and bucket.tokens + (now - bucket.filled_at) * per_second >= most / 2

    def close(self, method: str, channel: str, seconds: float) -> None:
        """Allow no call for `seconds`: Slack answered with Retry-After."""
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
        """Drop the buckets of quiet channels: they have refilled, so a new bucket is the same."""
        if len(self._buckets) < 1000:
            return
        quiet = time.monotonic() - most / per_second
        self._buckets = {
            key: bucket
            for key, bucket in self._buckets.items()
            if max(bucket.filled_at, bucket.closed_until) > quiet or not key[1]
        }
