"""Demo of the Slack channel without a Slack account: `make slack-demo`, or `python -m examples.slack_demo`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bot.errors import MynaError
from examples.slack_demo.myna_process import MynaEnded, MynaProcess, free_port, prepare_data, slack_settings
from examples.slack_demo.page import RunningDemo, running_demo


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.slack_demo", description="Myna in a Slack that is a fake")
    parser.add_argument("--port", type=int, default=8090, help="port of the page (8090)")
    parser.add_argument("--data", type=Path, help="folder that keeps Myna's database; without it, it is forgotten")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--socket-mode", action="store_true", help="connect over sockets, as behind a firewall")
    way.add_argument("--bot-url", metavar="URL", help="use a Myna that already runs there")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def data_folder(chosen: Path | None) -> Iterator[Path]:
    """Yield the chosen data folder, or a temporary one that is removed at the end."""
    if chosen is not None:
        yield chosen.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="myna-slack-demo-") as folder:
        yield Path(folder)


async def run(options: argparse.Namespace, data: Path) -> None:
    """Run the demo until Ctrl-C. Raises `MynaEnded` if Myna ends before that."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with running_demo(options.port) as demo:
        use = attach(demo, options.bot_url) if options.bot_url else play(demo, data, socket_mode=options.socket_mode)
        playing, told = asyncio.create_task(use), asyncio.create_task(stopping.wait())
        await asyncio.wait({playing, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing


async def attach(demo: RunningDemo, bot_url: str) -> None:
    demo.slack.bot_url = bot_url.rstrip("/")
    settings = slack_settings(demo.slack.url, socket_mode=False)
    print(f"The fake Slack is at {demo.url} - Myna at {bot_url} answers there if it was started with")
    print("\n".join(f"  {name}='{value}'" for name, value in settings.items()), flush=True)
    await asyncio.Event().wait()


async def play(demo: RunningDemo, data: Path, *, socket_mode: bool) -> None:
    settings = slack_settings(demo.slack.url, socket_mode=socket_mode)
    prepare_data(data, os.environ)
    myna = MynaProcess(data, free_port(), os.environ, settings)
    demo.slack.bot_url = "" if socket_mode else myna.url
    print("Starting Myna ...", flush=True)
    await myna.start()
    try:
        await myna.until_ready()
        print(f"The fake Slack is at {demo.url} - mention @Myna in #shop, or write to it directly. Ctrl-C ends it.")
        sys.stdout.flush()
        await myna.until_it_ends()
    finally:
        await myna.stop()


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    try:
        with data_folder(options.data) as data:
            asyncio.run(run(options, data))
    except (MynaEnded, MynaError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The demo can't start: {error}. Another --port or --data may help.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
