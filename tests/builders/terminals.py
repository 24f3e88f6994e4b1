"""A person at a terminal."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapters.cli.chat_console import Console
from adapters.cli.wiring import Agent
from bot.access.roles import Actor


class Terminal:
    """Types into a console and waits for what it shows."""

    def __init__(self, agent: Agent) -> None:
        reading, self._writing = os.pipe()
        self.source = os.fdopen(reading, encoding="utf-8")
        self.out = io.StringIO()
        self.console = Console(
            agent.conversations,
            agent.feedback,
            agent.consent,
            agent.steering,
            Actor("shell:root", "admin"),
            agent.workspace_id,
            source=self.source,
            out=self.out,
        )
        self._seen = 0
        self._ended = False

    def type(self, text: str) -> None:
        os.write(self._writing, text.encode())

    def end(self) -> None:
        """End the input, as Ctrl-D does; this also wakes the reading thread."""
        if not self._ended:
            self._ended = True
            os.close(self._writing)

    @property
    def text(self) -> str:
        return self.out.getvalue()

    async def shows(self, text: str) -> str:
        """Wait until `text` is shown after the text waited for last, and return all that was shown until then."""
        async with asyncio.timeout(20):
            while text not in self.text[self._seen :]:
                await asyncio.sleep(0.01)
        end = self.text.index(text, self._seen) + len(text)
        shown, self._seen = self.text[self._seen : end], end
        return shown


@asynccontextmanager
async def at_terminal(agent: Agent) -> AsyncIterator[Terminal]:
    """Run a console, which has to end by itself when the input ends."""
    terminal = Terminal(agent)
    running = asyncio.create_task(terminal.console.run())
    try:
        yield terminal
        terminal.end()
        async with asyncio.timeout(20):
            await running
    finally:
        terminal.end()
        running.cancel()
        await asyncio.to_thread(terminal.source.close)
