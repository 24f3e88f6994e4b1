"""The `myna` program: output, refusals and exit codes; no run may show a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa

from bot.settings import describe_settings
from storage import inbox, migrate
from storage.engines import postgresql_engine, sqlite_engine, sqlite_file
from storage.schema import DEFAULT_WORKSPACE
from storage.transaction import Transaction
from storage.values import Incoming, Reply, Sender, text_part
from tests.builders.cli import MYNA, Cli, remote
from tests.conftest import ServerProcess, free_port, serve_process
from tests.fakes.openai_server import OpenAIServer, reply

pytestmark = pytest.mark.both_databases("migrations and exports")

OLD = 1_700_000_000_000  # November 2023
DAMAGED = "Delete the folder"
# For what ends before a model is asked.
NO_MODEL = {"MYNA_GENERATOR": "remote", "MYNA_REMOTE_URL": "http://127.0.0.1:9/v1", "MYNA_MODEL": "served"}


@pytest.fixture
async def model_server() -> AsyncIterator[OpenAIServer]:
    server = OpenAIServer()
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def serving(myna: Cli, model_server: OpenAIServer) -> AsyncIterator[ServerProcess]:
    """Run `myna serve` on the test's data folder, with a scripted model behind it."""
    myna.settings |= remote(model_server)
    server = serve_process(myna.data, **remote(model_server))
    await server.start()
    yield server
    await server.stop()
    assert "Traceback" not in await asyncio.to_thread(server.log.read_text)


# --- help and wrong use ---


def test_help_lists_the_commands_and_where_settings_come_from(myna: Cli) -> None:
    done = myna("--help")
    assert done.code == 0
    for word in ("serve", "chat", "migrate", "model", "import", "export", "key", "usage", "settings", "myna.toml"):
        assert word in done.out
    assert done.err == ""


@pytest.mark.parametrize(
    "command",
    ["serve", "chat", "migrate", "model", "model pull", "import", "export", "key", "key create", "usage", "settings"],
)
def test_help_needs_no_valid_settings(myna: Cli, command: str) -> None:
    done = myna(*command.split(), "--help", MYNA_PORT="many")
    assert done.code == 0
    assert done.out.startswith(f"usage: myna {command}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["sevre"], "invalid choice"),
        (["model"], "required: ACTION"),
        (["export", "--since", "yesterday"], "'yesterday' is not a date like 2026-11-22"),
        (["export", "--since", "0001-01-01"], "is not a date like"),
        (["serve", "--port", "1"], "unrecognized arguments: --port"),
    ],
)
def test_wrong_use_is_refused_with_a_hint(myna: Cli, arguments: list[str], words: str) -> None:
    done = myna(*arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


# --- settings ---


def test_settings_shows_every_setting_with_its_value(myna: Cli) -> None:
    done = myna("settings", MYNA_TITLE="Postbote")
    assert done.code == 0
    assert "MYNA_TITLE = Postbote\n    Name of the bot" in done.out
    assert all(f"{row.name} = " in done.out for row in describe_settings())


def test_settings_as_json_keep_their_types(myna: Cli) -> None:
    done = myna("settings", "--json", MYNA_PORT="81", MYNA_ALLOWED_ORIGINS="https://a.example,https://b.example")
    values = {row["name"]: row for row in done.json}
    assert list(values) == [row.name for row in describe_settings()]
    assert values["MYNA_PORT"]["value"] == 81
    assert values["MYNA_ALLOWED_ORIGINS"]["value"] == ["https://a.example", "https://b.example"]
    assert values["MYNA_DATA"]["value"] == str(myna.data)
    assert set(values["MYNA_PORT"]) == {"name", "value", "type", "default", "help"}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_settings_hide_secret_values(myna: Cli, form: list[str]) -> None:
    done = myna(
        "settings",
        *form,
        MYNA_SECRET="hunter2",
        MYNA_REMOTE_KEY="hunter2",
        MYNA_DATABASE_URL="postgresql://me:hunter2@host/x",
    )
    assert "hunter2" not in done.out + done.err
    assert done.out.count("(set)") == 3


@pytest.mark.parametrize("command", ["settings", "serve", "export", "migrate"])
def test_bad_settings_are_reported_together_with_hints(myna: Cli, command: str) -> None:
    (myna.folder / "myna.toml").write_text("prot = 1\ntemperature = 9.0\n")
    done = myna(command, MYNA_PORT="many", MYNA_DEVICE="tpu")
    assert (done.code, done.out) == (2, "")
    lines = [line.strip() for line in done.err.splitlines()]
    assert lines[0] == "myna: The settings are not valid:"
    assert sorted(lines[1:]) == [
        "MYNA_DEVICE: must be one of auto, cpu, cuda",
        "MYNA_PORT: 'many' is not a whole number",
        "myna.toml: prot: there is no such setting; did you mean MYNA_PORT?",
        "myna.toml: temperature: must be between 0 and 5",
    ]
    assert not myna.data.exists()


# --- migrate ---


def test_a_second_migrate_changes_nothing(myna: Cli, empty_database_url: str) -> None:
    head = migrate.ScriptDirectory.from_config(migrate.alembic_config()).get_current_head()
    first = myna("migrate", "--json", MYNA_DATABASE_URL=empty_database_url)
    assert (first.code, first.json) == (0, {"before": None, "after": head, "backup": None})
    assert f"migrated from nothing to {head}" in first.err
    second = myna("migrate", MYNA_DATABASE_URL=empty_database_url)
    assert (second.code, second.out, second.err) == (0, f"The database is up to date (revision {head}).\n", "")


def test_migrate_refuses_a_database_of_a_newer_myna(myna: Cli, database_url: str) -> None:
    run_sql(database_url, "UPDATE alembic_version SET version_num = '7777'")
    done = myna("migrate", MYNA_DATABASE_URL=database_url)
    assert (done.code, done.out) == (1, "")
    assert "revision 7777" in done.err
    assert "newer Myna" in done.err


async def test_an_unusable_path_is_named(myna: Cli) -> None:
    (myna.folder / "file").touch()
    (myna.folder / "letter.db").write_text("Dear Sir or Madam, " * 100)
    places = [
        ({"MYNA_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}, "Connection refused"),
        ({"MYNA_DATABASE_URL": f"sqlite:///{myna.folder}/file/below/m.db"}, "MYNA_DATABASE_URL"),
        ({"MYNA_DATABASE_URL": f"sqlite:///{myna.folder}/letter.db"}, "file is not a database"),
        ({"MYNA_DATA": f"{myna.folder}/file"}, "Choose another folder with MYNA_DATA"),
    ]
    runs = await asyncio.gather(*(myna.beside("migrate", **settings) for settings, _ in places))
    for done, (_, words) in zip(runs, places, strict=True):
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("myna: ")
        assert words in done.err


# --- model ---


def test_an_empty_model_list_says_how_to_get_a_model(myna: Cli) -> None:
    assert "myna model pull" in myna("model", "list").out
    assert myna("model", "list", "--json").json == []


def test_model_list_shows_complete_models(myna: Cli) -> None:
    folder = myna.data / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (myna.data / "models" / ".half.partial").mkdir()
    done = myna("model", "list", "--json")
    assert done.json == [{"name": "mine", "path": str(folder), "bytes": 2, "source": "put there by hand"}]
    assert myna("model", "list").out.startswith("mine  0 MB  ")


def test_model_pull_of_an_unknown_name_lists_valid_forms(myna: Cli) -> None:
    done = myna("model", "pull", "no such model")
    assert (done.code, done.out) == (1, "")
    assert 'There is no model "no such model"' in done.err
    assert "Hugging Face id" in done.err


def test_model_pull_of_a_folder_prints_its_path(myna: Cli) -> None:
    (myna.folder / "mine").mkdir()
    done = myna("model", "pull", str(myna.folder / "mine"), "--json")
    assert done.json == {"path": str(myna.folder / "mine")}


# --- export ---


def run_sql(url: str, statement: str) -> None:
    engine = (sqlite_engine if sqlite_file(url) else postgresql_engine)(sa.make_url(url))
    with engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


def fill(url: str) -> None:
    """Add three conversations: an old and a new one on the web, and one on the console with an open question."""
    migrate.upgrade(url)
    engine = (sqlite_engine if sqlite_file(url) else postgresql_engine)(sa.make_url(url))
    for channel, key in (("web", "old"), ("web", "new"), ("console", "open")):
        with engine.begin() as connection:
            tx = Transaction(connection, DEFAULT_WORKSPACE)
            parts = (text_part(f"Où est mon colis {key}? 你好"),)
            inbox.accept(tx, Incoming(channel, key, Sender("somebody"), f"{channel}:{key}", parts))
            if key == "open":
                continue
            (lease,) = inbox.claim(Transaction(connection, None), "w", 1, 60_000)
            inbox.complete(tx, lease, Reply("answered", f"Here is {key}.\nBye.", 1, "fake"))
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE conversation_work SET updated_at = :old WHERE conversation_id IN "
                "(SELECT id FROM conversation WHERE external_id = 'old')"
            ),
            {"old": OLD},
        )
    engine.dispose()


def said(rows: list[Any]) -> list[list[tuple[str, str]]]:
    return [[(turn["role"], turn["content"]) for turn in row["messages"]] for row in rows]


OLD_CHAT = [("user", "Où est mon colis old? 你好"), ("assistant", "Here is old.\nBye.")]
NEW_CHAT = [("user", "Où est mon colis new? 你好"), ("assistant", "Here is new.\nBye.")]
OPEN_CHAT = [("user", "Où est mon colis open? 你好")]


def test_export_prints_a_line_for_each_conversation_oldest_first(myna: Cli, empty_database_url: str) -> None:
    fill(empty_database_url)
    done = myna("export", MYNA_DATABASE_URL=empty_database_url)
    assert (done.code, done.err) == (0, "3 conversations exported.\n")
    assert said(done.rows) == [OLD_CHAT, NEW_CHAT, OPEN_CHAT]
    assert [row["channel"] for row in done.rows] == ["web", "web", "console"]
    assert done.rows[0]["messages"][1]["state"] == "answered"
    assert "你好" in done.out, "people read these files, too"


async def test_export_filters_by_channel_and_date(myna: Cli) -> None:
    await asyncio.to_thread(fill, f"sqlite:///{myna.data / 'myna.db'}")
    choices: list[tuple[list[str], list[Any]]] = [
        (["--since", "2023-11-14T22:13:21+00:00"], [NEW_CHAT, OPEN_CHAT]),
        (["--since", "2023-11-14T22:13:20+00:00"], [OLD_CHAT, NEW_CHAT, OPEN_CHAT]),
        (["--channel", "web", "--since", "2024-01-01"], [NEW_CHAT]),
        (["--channel", "fax", "--since", "2024-01-01"], []),
    ]
    runs = await asyncio.gather(*(myna.beside("export", *options) for options, _ in choices))
    for done, (options, expected) in zip(runs, choices, strict=True):
        assert (done.code, said(done.rows)) == (0, expected), options
        assert done.err == f"{len(expected)} conversation{'' if len(expected) == 1 else 's'} exported.\n"


def test_export_writes_a_file_and_reports_it(myna: Cli) -> None:
    fill(f"sqlite:///{myna.data / 'myna.db'}")
    file = myna.folder / "chats.jsonl"
    done = myna("export", "--out", str(file), "--json")
    assert done.json == {"conversations": 3, "file": str(file)}
    assert said([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])[0] == OLD_CHAT
    assert sorted(path.name for path in myna.folder.iterdir()) == ["chats.jsonl", "data"]


def test_a_failed_export_leaves_the_earlier_file(myna: Cli) -> None:
    file = myna.folder / "chats.jsonl"
    file.write_text("precious")
    done = myna("export", "--out", str(file))
    assert (done.code, done.out) == (1, "")
    assert "there is no database at" in done.err
    assert file.read_text() == "precious"
    assert [path.name for path in myna.folder.iterdir()] == ["chats.jsonl"]


def test_export_to_a_missing_folder_is_refused(myna: Cli) -> None:
    fill(f"sqlite:///{myna.data / 'myna.db'}")
    done = myna("export", "--out", str(myna.folder / "no" / "such" / "file"))
    assert done.code == 1
    assert "can't be written: No such file or directory" in done.err


def test_export_of_an_unmigrated_database_names_the_command(myna: Cli, empty_database_url: str) -> None:
    if path := sqlite_file(empty_database_url):
        path.touch()
    done = myna("export", MYNA_DATABASE_URL=empty_database_url)
    assert (done.code, done.out) == (1, "")
    assert "Run `myna migrate` first" in done.err


def test_export_to_a_closed_pipe_is_silent(myna: Cli) -> None:
    url = f"sqlite:///{myna.data / 'myna.db'}"
    fill(url)
    run_sql(url, "UPDATE message SET parts = json_array(json_object('type', 'text', 'text', hex(zeroblob(500000))))")
    command = f"{shlex.join([*MYNA, 'export'])} | head -c 10"
    done = subprocess.run(
        ["bash", "-c", command], env=myna.environment, cwd=myna.folder, capture_output=True, text=True
    )
    assert len(done.stdout) == 10
    assert done.stderr == ""


async def test_export_works_while_the_server_runs(
    myna: Cli, serving: ServerProcess, model_server: OpenAIServer
) -> None:
    model_server.enqueue(reply("It is ", "on its way."))
    await myna_says(serving, "Where is my parcel?")
    done = await myna.beside("export")
    assert done.code == 0
    assert said(done.rows) == [[("user", "Where is my parcel?"), ("assistant", "It is on its way.")]]
    assert [row["channel"] for row in done.rows] == ["web"]


async def myna_says(server: ServerProcess, text: str) -> str:
    """Ask as a web client does, and read the stream to its end."""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{server.url}/api/visitor", json={}) as response:
            headers = {"Authorization": f"Bearer {(await response.json())['token']}"}
        body = {"id": "chat-1", "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": text}]}]}
        async with session.post(f"{server.url}/api/chat", json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            return await response.text()


# --- one process at a time ---


async def test_a_second_process_on_a_database_is_refused_with_a_hint(myna: Cli, serving: ServerProcess) -> None:
    assert serving.process is not None
    commands = ("serve", "chat", "migrate")
    for done in await asyncio.gather(*(myna.beside(command, MYNA_PORT="0") for command in commands)):
        assert (done.code, done.out) == (1, "")
        assert f"Another Myna (process {serving.process.pid}) already uses {myna.data / 'myna.db'}" in done.err
        assert all(word in done.err for word in ("Stop it first", "MYNA_DATA", "MYNA_DATABASE_URL"))


async def test_the_lock_is_on_the_database_and_for_writers_only(myna: Cli, serving: ServerProcess) -> None:
    assert (await myna.beside("model", "list")).code == 0
    assert (await myna.beside("export")).code == 0
    elsewhere = {"MYNA_DATA": str(myna.folder / "other"), "MYNA_DATABASE_URL": f"sqlite:///{myna.data / 'myna.db'}"}
    done = await myna.beside("migrate", **elsewhere)
    assert done.code == 1
    assert "already uses" in done.err
    assert (await myna.beside("migrate", MYNA_DATA=elsewhere["MYNA_DATA"])).code == 0


async def test_a_kill_releases_the_lock(myna: Cli, serving: ServerProcess) -> None:
    await serving.kill()
    assert (await myna.beside("migrate")).code == 0


# --- serve ---


def test_a_port_in_use_is_named_with_a_hint(myna: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = myna("serve", MYNA_PORT=port, **NO_MODEL)
    assert (done.code, done.out) == (1, "")
    assert f"can't listen on 127.0.0.1:{port} (Address already in use)" in done.err
    assert "MYNA_PORT" in done.err


def test_an_address_of_another_machine_is_refused(myna: Cli) -> None:
    done = myna("serve", MYNA_HOST="192.0.2.1", **NO_MODEL)
    assert done.code == 1
    assert "can't listen on 192.0.2.1" in done.err
    assert "MYNA_HOST" in done.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_server_cleanly(serving: ServerProcess, number: int) -> None:
    async with asyncio.timeout(60):
        while "The model is loaded; Myna answers." not in await asyncio.to_thread(serving.log.read_text):
            await asyncio.sleep(0.05)
    assert await serving.stop(number) == 0
    log = await asyncio.to_thread(serving.log.read_text)
    assert f"Myna listens on {serving.url}" in log
    assert log.rstrip().endswith("Stopped.")


def test_an_unreachable_model_server_ends_the_start(myna: Cli) -> None:
    nobody = {"MYNA_REMOTE_URL": f"http://127.0.0.1:{free_port()}/v1"}
    done = myna.process("serve", MYNA_PORT="0", **(NO_MODEL | nobody))
    assert done.code == 1
    assert "can't be reached" in done.err
    assert "MYNA_REMOTE_URL" in done.err


def test_a_remote_generator_needs_a_url(myna: Cli) -> None:
    done = myna("serve", MYNA_GENERATOR="remote", MYNA_PORT="0")
    assert done.code == 1
    assert "MYNA_REMOTE_URL" in done.err


async def test_the_signing_key_is_private_and_permanent(myna: Cli, serving: ServerProcess) -> None:
    file = myna.data / "secret.key"
    first = file.read_text()
    assert len(first.strip()) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    await serving.stop()
    await serving.start()
    assert file.read_text() == first
    await serving.stop()
    file.write_text("")  # as a crash in the middle of writing may leave it
    await serving.start()
    assert len(file.read_text().strip()) >= 32


# --- chat through a pipe ---


async def test_chat_answers_piped_lines_and_ends(myna: Cli, model_server: OpenAIServer) -> None:
    model_server.enqueue(reply("It is ", "on its way."))
    done = await myna.process.beside("chat", stdin="Where is my parcel?\n/history\n", **remote(model_server))
    assert done.code == 0
    assert "It is on its way.\n" in done.out
    assert "you: Where is my parcel?\nbot: It is on its way.\n" in done.out


# --- the model's files ---


@pytest.fixture
def own_model(starter_model_path: Path, tmp_path: Path) -> Path:
    """Link the starter model's files, so that a test can replace one of them."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in starter_model_path.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def spoil(folder: Path, name: str, how: str) -> None:
    file = folder / name
    original = file.resolve()
    file.unlink()
    shutil.copy(original, file)
    with file.open("r+b") as writer:
        size = writer.seek(0, os.SEEK_END)
        if how == "cut short":
            writer.truncate(size // 2)
        else:
            writer.seek(size - 9)
            byte = writer.read(1)[0]
            writer.seek(size - 9)
            writer.write(bytes([byte ^ 1]))


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how", "command"),
    [
        ("model.safetensors", "cut short", "serve"),
        ("model.safetensors", "one bit changed", "chat"),
        ("config.json", "cut short", "chat"),
    ],
)
def test_a_damaged_model_is_named_with_a_hint(myna: Cli, own_model: Path, name: str, how: str, command: str) -> None:
    spoil(own_model, name, how)
    done = myna(command, MYNA_MODEL=str(own_model), MYNA_PORT="0")
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert last.startswith("myna: ")
    assert str(own_model) in last
    assert DAMAGED in last


# --- keys and usage ---


def test_keys_are_created_listed_and_revoked(myna: Cli) -> None:
    made = myna("key", "create", "shop", "--tokens-per-day", "5000")
    assert made.code == 0
    assert made.out.startswith("myna_sk_")
    assert "can't be shown again" in made.err
    again = myna("key", "create", "shop")
    assert (again.code, again.out) == (1, "")
    assert 'a key "shop" already' in again.err
    listed = myna("key", "list").out
    assert "5,000 tokens a day" in listed
    assert made.out.strip() not in listed, "the secret is shown once"
    assert made.out.strip().encode() not in (myna.data / "myna.db").read_bytes()
    assert myna("key", "revoke", "shop").code == 0
    assert myna("key", "revoke", "shop").code == 1
    told = [(row["action"], row["target"]) for row in myna("audit", "--json").rows if row["action"].startswith("key.")]
    assert sorted(told) == [("key.created", "shop"), ("key.revoked", "shop")]
    (row,) = myna("key", "list", "--json").json
    assert row["revoked_at"] is not None
    other = myna("key", "create", "other", "--json").json
    assert other["secret"].startswith("myna_sk_")
    assert myna("key", "create", "many", "--requests-per-minute", "0").code == 1


def test_an_empty_key_list_says_how_to_create_a_key(myna: Cli) -> None:
    assert "myna key create" in myna("key", "list").out
    assert myna("usage").out.strip().startswith("time,key,")


async def test_keys_work_at_once_while_the_server_runs(
    myna: Cli, serving: ServerProcess, model_server: OpenAIServer
) -> None:
    secret = (await myna.beside("key", "create", "shop")).out.strip()
    headers = {"Authorization": f"Bearer {secret}"}
    body = {"model": "served", "messages": [{"role": "user", "content": "Hello"}]}
    model_server.enqueue(reply("Hi", " there"))
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(serving.url + "/v1/chat/completions", json=body) as response:
            assert response.status == 200, await response.text()
            assert (await response.json())["choices"][0]["message"]["content"] == "Hi there"
        assert (await myna.beside("key", "revoke", "shop")).code == 0
        async with session.post(serving.url + "/v1/chat/completions", json=body) as response:
            assert response.status == 401
    rows = (await myna.beside("usage", "--json")).rows
    assert [(row["key"], row["endpoint"], row["outcome"]) for row in rows] == [("shop", "chat", "stop")]
    target = myna.folder / "usage.csv"
    assert (await myna.beside("usage", "--out", str(target))).err == "1 request written.\n"
    header, line = target.read_text().splitlines()
    assert header.startswith("time,key,api_key_id,endpoint,model,version,prompt_tokens")
    assert ",shop," in line


def test_an_open_api_listens_on_loopback_only(myna: Cli) -> None:
    done = myna("serve", MYNA_API_KEYS="off", MYNA_HOST="0.0.0.0", MYNA_PORT="0", **NO_MODEL)
    assert done.code == 1
    assert "myna key create" in done.err
