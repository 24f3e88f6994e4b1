"""Load of parallel conversations on an OpenAI-compatible server.

Each conversation has three turns, sends its whole history again on each, and shares one system prompt with the others;
the next turn follows at once.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

SYSTEM = (
    "You answer for Fernhill, a shop for garden tools, in the chat of its web page. Answer in two or three friendly "
    "sentences and stay with these facts. Parcels leave the day after the order and take two to four working days; "
    "orders over 60 euros are sent free of charge, all others for 4.90 euros. Anything may be sent back within 30 "
    "days, unused and in its box; the money is on the account a week after we have it. Spades and forks have a "
    "warranty of ten years, shears of five, hoses of two. A warranty claim needs a photo and the order's number. "
    "Orders can be changed or cancelled until the parcel is packed, at the latest at eight in the evening. Invoices "
    "and addresses are under My account. Vouchers are good for three years. The workshop sharpens shears for 12 "
    "euros. We are here from nine to six."
)
TURNS = (
    "Hello! My order {number} should have been here on Tuesday, and I have heard nothing. Where is it?",
    "I see. And if the spade does not suit me, how do I send it back, and who pays for that?",
    "One last question about order {number}: how long is the warranty, and what do you need from me for a claim?",
)
MAX_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Timing:
    """Timing of a reply: seconds to its first token and to its end, and its tokens."""

    turn: int
    first: float
    total: float
    tokens: int


async def run_load(url: str, models: Sequence[str], key: str, conversations: int) -> dict[str, float]:
    """Hold the conversations, each with the next of the `models`, and sum up; times are milliseconds."""
    headers = {"Authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=900)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # some servers end connections that were kept
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        await _reply(session, url, models[0], [{"role": "user", "content": "Hello"}], 0)
        started = time.perf_counter()
        held = [
            _conversation(session, url, models[number % len(models)], 4000 + 13 * number)
            for number in range(conversations)
        ]
        timings = [timing for each in await asyncio.gather(*held) for timing in each]
        wall = time.perf_counter() - started
    tokens = sum(timing.tokens for timing in timings)
    return {
        "tokens_per_s": round(tokens / wall, 1),
        "first_turn_ms": _median([one.first for one in timings if one.turn == 0]),
        "later_turns_ms": _median([one.first for one in timings if one.turn > 0]),
        "ms_per_token": _median([(one.total - one.first) / max(one.tokens - 1, 1) for one in timings]),
    }


def _median(seconds: Sequence[float]) -> float:
    return round(1000 * statistics.median(seconds), 1)


async def _conversation(session: aiohttp.ClientSession, url: str, model: str, number: int) -> list[Timing]:
    messages = [{"role": "system", "content": SYSTEM}]
    timings = []
    for turn, question in enumerate(TURNS):
        messages.append({"role": "user", "content": question.format(number=number)})
        timing, text = await _reply(session, url, model, messages, turn)
        messages.append({"role": "assistant", "content": text})
        timings.append(timing)
    return timings


async def _reply(
    session: aiohttp.ClientSession, url: str, model: str, messages: Sequence[dict[str, str]], turn: int
) -> tuple[Timing, str]:
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    first, text, tokens = 0.0, "", 0
    async with session.post(f"{url}/chat/completions", json=body) as response:
        if response.status != 200:
            raise SystemExit(f"{url} answered {response.status}: {(await response.text())[:300]}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            chunk: dict[str, Any] = json.loads(line[6:])
            tokens = (chunk.get("usage") or {}).get("completion_tokens") or tokens
            for choice in chunk.get("choices", ()):
                if piece := choice.get("delta", {}).get("content"):
                    first = first or time.perf_counter() - started
                    text += piece
    total = time.perf_counter() - started
    return Timing(turn, first or total, total, tokens), text
