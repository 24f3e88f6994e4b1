"""Whether a request is Slack's own: HMAC-SHA256 over its time and exact bytes (docs.slack.dev, "Verifying requests").

Knows: the signing secret and the clock. Does not know: what the bytes say.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping

from bot.errors import NotAuthenticated

MAX_AGE_SECONDS = 300
_TIMESTAMP = re.compile(r"\d{1,12}", re.ASCII)


class SignatureCheck:
    """`clock` gives seconds since 1970. Slack's own library raises on a time that is no number, so this is ours."""

    def __init__(self, signing_secret: str, clock: Callable[[], float] = time.time) -> None:
        self._secret = signing_secret.encode()
        self._clock = clock

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise `NotAuthenticated` for what was not signed with our secret within the last five minutes."""
        refused = NotAuthenticated(
            "The request is not signed by Slack with our secret, or its time is more than five minutes off. Check "
            "MYNA_SLACK_SIGNING_SECRET and this machine's clock."
        )
        sent = headers.get("X-Slack-Request-Timestamp", "")
        if not _TIMESTAMP.fullmatch(sent) or abs(self._clock() - int(sent)) > MAX_AGE_SECONDS:
            raise refused
        signed = hmac.new(self._secret, b"v0:" + sent.encode() + b":" + body, hashlib.sha256).hexdigest()
        given = headers.get("X-Slack-Signature", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(f"v0={signed}".encode(), given):
            raise refused
