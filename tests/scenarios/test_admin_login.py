"""Admin login: sessions, throttled guesses, passwords, roles, CSRF protection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import argon2
import pytest
import sqlalchemy as sa

from adapters.admin.admin_api import AdminApi
from adapters.admin.guard import Route
from adapters.cli.web_wiring import make_admin_api
from adapters.cli.wiring import Agent, running_agent
from adapters.http.origins import Origins
from bot.access import login_throttle
from bot.access.roles import ROLES, Actor
from bot.errors import Conflict, InvalidInput, NotAuthenticated, TooManyAttempts, Unavailable
from bot.settings import Settings
from storage.learning_schema import account, account_session
from tests.builders.agents import StartAgent
from tests.builders.cli import Cli
from tests.builders.logins import CHEAP_HASHER, PASSWORD, ROOT, Steerer, accounts_of, log_in, one_of_each_role
from tests.builders.web import SHOP, WebServer, serve
from tests.fakes.generator import FakeGenerator

HOUR_MS = 3_600_000


def change(server: WebServer, statement: sa.Executable) -> None:
    """Change rows behind the agent's back."""
    url = str(server.agent.settings.resolved_database_url).replace("postgresql://", "postgresql+psycopg://", 1)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(statement)
    engine.dispose()


# --- logging in ---


async def test_a_login_lasts_until_logout(server: WebServer) -> None:
    ada = await log_in(server, name="ada")
    assert (await ada.get("session"))["account"] == {
        "name": "ada",
        "role": "admin",
        "roles": ["viewer", "agent", "trainer", "admin"],
    }
    secret = ada.secret
    await ada.post("logout")
    assert ada.secret == ""
    ada.secret = secret
    assert (await ada.get("session"))["account"] is None
    assert (await ada.call("GET", "audit"))[0] == 401


async def test_each_login_has_a_secret_and_only_its_hash_is_stored(server: WebServer) -> None:
    ada = await log_in(server, name="ada")
    again = Steerer(server)
    await again.post("login", name=" ADA ", password=PASSWORD)
    assert again.secret != ada.secret
    stored = repr(await server.agent.database.read(_all_rows, server.agent.workspace_id))
    assert ada.secret not in stored
    assert again.secret not in stored
    assert PASSWORD not in stored


def _all_rows(tx: Any) -> list[Any]:
    return [*tx.connection.execute(sa.select(account)), *tx.connection.execute(sa.select(account_session))]


async def test_logging_in_again_ends_the_browsers_old_login(sqlite_server: WebServer) -> None:
    ada = await log_in(sqlite_server, name="ada")
    old = ada.secret
    await ada.post("login", name="ada", password=PASSWORD)
    ada.secret, new = old, ada.secret
    assert (await ada.call("GET", "audit"))[0] == 401
    ada.secret = new
    assert (await ada.call("GET", "audit"))[0] == 200


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong password"), ("nobody", PASSWORD), ("", ""), ("ada", "")])
async def test_a_wrong_name_and_a_wrong_password_look_the_same(
    sqlite_server: WebServer, name: str, password: str
) -> None:
    await log_in(sqlite_server, name="ada")
    body = {"name": name or "x", "password": password or "x"}
    status, found = await Steerer(sqlite_server).call("POST", "login", body)
    assert status == 401
    assert found["error"]["message"] == "This name and password don't belong together."


async def test_an_unknown_name_costs_the_same_hash_as_a_known_one(
    sqlite_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = accounts_of(sqlite_server.agent)
    await accounts.create(ROOT, "ada", "viewer", PASSWORD)
    verified: list[str] = []
    verify = accounts._verify

    def note_and_verify(digest: str, password: str) -> bool:
        verified.append(digest)
        return verify(digest, password)

    monkeypatch.setattr(accounts, "_verify", note_and_verify)
    for name in ("ada", "nobody", "no name at all!"):
        with pytest.raises(NotAuthenticated):
            await accounts.authenticate(name, "not the password")
    assert len(verified) == 3
    assert len({digest.rpartition("$")[0].rpartition("$")[0] for digest in verified}) == 1, "the same work for each"


@pytest.mark.both_databases("times compared in SQL")
@pytest.mark.parametrize(("column", "hours"), [("used_at", 12), ("created_at", 7 * 24)])
async def test_a_login_ends_after_its_time(server: WebServer, column: str, hours: int) -> None:
    ada = await log_in(server, name="ada")
    for past, status in ((hours * HOUR_MS - 60_000, 200), (120_000, 401)):
        await asyncio.to_thread(
            change, server, sa.update(account_session).values({column: account_session.c[column] - past})
        )
        if column == "created_at":  # in use all the time
            assert (await ada.call("GET", "audit"))[0] == status
        else:
            found = await server.agent.database.read(_is_known, server.agent.workspace_id, ada.secret)
            assert found is (status == 200)


def _is_known(tx: Any, secret: str) -> bool:
    from bot.access.accounts import IDLE_MS, MOST_MS, _digest
    from storage import accounts

    return accounts.find_session(tx, _digest(secret), IDLE_MS, MOST_MS) is not None


async def test_a_login_in_use_goes_on(server: WebServer) -> None:
    ada = await log_in(server, name="ada")
    for _ in range(3):
        await asyncio.to_thread(
            change, server, sa.update(account_session).values(used_at=account_session.c.used_at - 11 * HOUR_MS)
        )
        assert (await ada.call("GET", "audit"))[0] == 200


@pytest.mark.both_databases
async def test_all_logins_end_with_a_new_password_or_a_disabled_account(server: WebServer) -> None:
    admin, ada = await log_in(server), await log_in(server, "viewer", "ada")
    other = Steerer(server)
    await other.post("login", name="ada", password=PASSWORD)
    assert await ada.refused("password", old="wrong one", new="seven swans a-swimming") == (400, "invalid_input")
    await ada.post("password", old=PASSWORD, new="seven swans a-swimming")
    assert (await ada.call("GET", "audit"))[0] == 200, "this browser goes on with a new login"
    assert (await other.call("GET", "audit"))[0] == 401
    await admin.post("accounts/ada/disabled", disabled=True)
    assert (await ada.call("GET", "audit"))[0] == 401
    assert (await ada.refused("login", name="ada", password="seven swans a-swimming"))[0] == 401
    await admin.post("accounts/ada/disabled", disabled=False)
    assert (await ada.call("GET", "audit"))[0] == 401, "the old login stays ended"
    await ada.post("login", name="ada", password="seven swans a-swimming")


async def test_a_password_change_and_its_new_login_are_atomic(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = accounts_of(server.agent)
    ada = await accounts.create(ROOT, "ada", "viewer", PASSWORD)
    old, actor = await accounts.log_in(ada, PASSWORD)

    async def refused(*_: Any) -> Any:
        raise TooManyAttempts(retry_after=1.0)

    monkeypatch.setattr(accounts, "log_in", refused)  # as others from the same address may have it at any time
    secret = await accounts.change_own_password(actor, PASSWORD, "seven swans a-swimming", "10.0.0.1")
    assert await accounts.actor_of_session(secret) == actor
    assert await accounts.actor_of_session(old) is None


async def test_the_first_start_names_the_command_for_an_account(sqlite_server: WebServer) -> None:
    somebody = Steerer(sqlite_server)
    assert (await somebody.get("session"))["firstCommand"] == "myna account create NAME --role admin"
    await log_in(sqlite_server)
    assert (await somebody.get("session"))["firstCommand"] is None


async def test_the_cookie_is_secure_behind_https(start_agent: StartAgent, sqlite_url: str) -> None:
    async with start_agent(sqlite_url, public_url="https://myna.example") as agent, serve(agent) as server:
        await accounts_of(agent).create(ROOT, "ada", "admin", PASSWORD)
        headers = {"Origin": "https://myna.example", "Sec-Fetch-Site": "same-origin", "X-Myna-Admin": "1"}
        async with server.session.post(
            server.url + "/admin/api/login", json={"name": "ada", "password": PASSWORD}, headers=headers
        ) as response:
            cookie = response.headers["Set-Cookie"]
            assert cookie.startswith("__Host-myna_admin=")
            assert {"HttpOnly", "Secure", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
            assert "Domain" not in cookie
        secret = cookie.partition("=")[2].partition(";")[0]
        for name, status in (("__Host-myna_admin", 200), ("myna_admin", 401)):
            async with server.session.get(
                server.url + "/admin/api/audit", headers={"Cookie": f"{name}={secret}"}
            ) as response:
                assert response.status == status


# --- throttling ---


async def test_guessing_is_slowed_with_a_clear_message(
    sqlite_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_throttle, "FIRST_WAIT_SECONDS", 600.0)
    await log_in(sqlite_server, name="ada")
    guesser = Steerer(sqlite_server)
    for _ in range(5):
        assert (await guesser.refused("login", name="ada", password="wrong"))[0] == 401
    status, found = await guesser.call("POST", "login", {"name": "ada", "password": PASSWORD})
    assert (status, found["error"]["code"]) == (429, "too_many_attempts")
    assert "wait 10 minutes" in found["error"]["message"]
    rows = (await (await log_in(sqlite_server, name="bob")).get("audit"))["rows"]
    assert [row["target"] for row in rows if row["action"] == "account.guessed_at"] == ["ada"]


async def test_simultaneous_guesses_do_not_evade_the_limit(sqlite_server: WebServer) -> None:
    accounts = accounts_of(sqlite_server.agent)
    await accounts.create(ROOT, "ada", "viewer", PASSWORD)
    tries = [accounts.authenticate("ada", f"guess {number}", "10.0.0.1") for number in range(20)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(type(outcome) is NotAuthenticated for outcome in outcomes) == 5
    assert sum(isinstance(outcome, TooManyAttempts) for outcome in outcomes) == 15


# --- passwords and names ---


@pytest.mark.parametrize(
    "password", ["short", "1234567890", "PassWord123", "aaaaaaaaaaaa", "ababababab", "ada1234567", "x" * 1001]
)
async def test_weak_passwords_are_refused(sqlite_server: WebServer, password: str) -> None:
    with pytest.raises(InvalidInput):
        await accounts_of(sqlite_server.agent).create(ROOT, "ada", "viewer", password)


async def test_a_password_may_hold_any_characters_in_either_form(sqlite_server: WebServer) -> None:
    accounts = accounts_of(sqlite_server.agent)
    await accounts.create(ROOT, "ada", "viewer", "  crème brûlée 密码 \ud800")
    assert await accounts.authenticate("ada", "  cre\u0300me bru\u0302le\u0301e 密码 \ud800") == Actor(
        "web:ada", "viewer"
    )


@pytest.mark.parametrize("name", ["", " ", "a b", "ada!", "-ada", "x" * 65, "ädä", "../x", "a\x00"])
async def test_names_are_plain(sqlite_server: WebServer, name: str) -> None:
    with pytest.raises(InvalidInput):
        await accounts_of(sqlite_server.agent).create(ROOT, name, "viewer", PASSWORD)


@pytest.mark.both_databases("a race")
async def test_a_name_is_taken_once(server: WebServer) -> None:
    accounts = accounts_of(server.agent)
    made = await asyncio.gather(
        *(accounts.create(ROOT, name, "viewer", PASSWORD) for name in ("ada", "ADA", "Ada ")), return_exceptions=True
    )
    assert made.count("ada") == 1
    assert sum(type(outcome) is Conflict for outcome in made) == 2


@pytest.mark.both_databases("a race")
async def test_there_is_always_an_admin(server: WebServer) -> None:
    admin = await log_in(server)
    assert await admin.refused("accounts/admin/role", role="viewer") == (409, "conflict")
    assert await admin.refused("accounts/admin/disabled", disabled=True) == (409, "conflict")
    await log_in(server, name="second")
    both = await asyncio.gather(
        admin.call("POST", "accounts/admin/role", {"role": "viewer"}),
        admin.call("POST", "accounts/second/role", {"role": "viewer"}),
    )
    assert sorted(status for status, _ in both) in ([200, 409], [200, 403])


async def test_a_new_role_counts_from_the_next_request(server: WebServer) -> None:
    admin, ada = await log_in(server), await log_in(server, "viewer", "ada")
    assert (await ada.call("GET", "accounts"))[0] == 403
    await admin.post("accounts/ada/role", role="admin")
    assert (await ada.call("GET", "accounts"))[0] == 200


@pytest.mark.both_databases
async def test_a_linked_identity_acts_as_its_account(server: WebServer) -> None:
    accounts = accounts_of(server.agent)
    admin = await log_in(server)
    await log_in(server, "trainer", "ada")
    assert await accounts.actor_of("slack", "T1/U2") is None
    await admin.post("accounts/ada/identities", identity="slack:T1/U2")
    assert await accounts.actor_of("slack", "T1/U2") == Actor("slack:ada", "trainer")
    assert await admin.refused("accounts/admin/identities", identity="slack:T1/U2") == (409, "conflict")
    assert await admin.refused("accounts/nobody/identities", identity="slack:T1/U3") == (404, "not_found")
    await admin.post("accounts/ada/disabled", disabled=True)
    assert await accounts.actor_of("slack", "T1/U2") is None
    await admin.post("identities/unlink", identity="slack:T1/U2")
    assert await admin.refused("identities/unlink", identity="slack:T1/U2") == (404, "not_found")


async def test_the_password_of_a_new_account_is_shown_once(server: WebServer) -> None:
    admin = await log_in(server)
    made = await admin.post("accounts", name="Ada", role="agent")
    ada = Steerer(server)
    await ada.post("login", name="ada", password=made["password"])
    assert made["password"] not in repr(await admin.get("accounts"))
    fresh = (await admin.post("accounts/ada/password"))["password"]
    assert (await ada.refused("login", name="ada", password=made["password"]))[0] == 401
    await ada.post("login", name="ada", password=fresh)


@asynccontextmanager
async def production_agent(folder: Path, url: str) -> AsyncIterator[Agent]:
    """Run an agent as `myna serve` does, with its default password hasher."""
    generator = FakeGenerator()
    await generator.start()
    async with running_agent(Settings(data=folder, database_url=url), generator) as agent:
        yield agent


async def password_hash(agent: Agent) -> str:
    return str((await agent.database.read(_all_rows, agent.workspace_id))[0].password_hash)


async def test_hashes_follow_rfc_9106_and_older_hashes_are_renewed(tmp_path: Path, sqlite_url: str) -> None:
    async with production_agent(tmp_path, sqlite_url) as agent, serve(agent) as server:
        await agent.accounts.create(ROOT, "ada", "viewer", PASSWORD)
        stored = await password_hash(agent)
        assert argon2.extract_parameters(stored) == argon2.profiles.RFC_9106_LOW_MEMORY
        await Steerer(server).post("login", name="ada", password=PASSWORD)
        assert await password_hash(agent) == stored
        weak = await asyncio.to_thread(CHEAP_HASHER.hash, PASSWORD)
        await asyncio.to_thread(change, server, sa.update(account).values(password_hash=weak))
        await Steerer(server).post("login", name="ada", password=PASSWORD)
        renewed = await password_hash(agent)
        assert argon2.extract_parameters(renewed) == argon2.profiles.RFC_9106_LOW_MEMORY
        await Steerer(server).post("login", name="ada", password=PASSWORD)
        assert (await Steerer(server).refused("login", name="ada", password="wrong"))[0] == 401


async def test_the_command_line_hashes_passwords_as_the_server_does(myna: Cli, sqlite_url: str) -> None:
    myna.settings["MYNA_DATABASE_URL"] = sqlite_url
    done = await myna.beside("account", "create", "ada", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert done.code == 0, done.err
    async with production_agent(myna.data, sqlite_url) as agent:
        assert argon2.extract_parameters(await password_hash(agent)) == argon2.profiles.RFC_9106_LOW_MEMORY
        assert await agent.accounts.authenticate("ada", PASSWORD) == Actor("web:ada", "viewer")


# --- roles and origins ---


async def admin_api(server: WebServer) -> AdminApi:
    return await asyncio.to_thread(make_admin_api, server.agent, Origins(()))  # it may read keys, as at a start


async def all_routes(server: WebServer) -> list[Route]:
    return (await admin_api(server)).own_routes


def address_of(route: Route) -> str:
    return route.path.replace("{", "").replace("}", "").removeprefix("/admin/api/")


# Last, since it ends the login.
async def test_every_route_requires_its_role(sqlite_server: WebServer) -> None:
    people = await one_of_each_role(sqlite_server)
    routes = sorted(await all_routes(sqlite_server), key=lambda route: route.path.endswith("/logout"))
    assert len(routes) > 5
    wrong = []
    for route in routes:
        for role, somebody in people.items():
            status, found = await somebody.call(route.method, address_of(route))
            enough = ROLES.index(role) >= ROLES.index(route.needs)
            if (status == 403) is enough or status in (401, 500):
                wrong.append((role, route.method, route.path, status, found))
    assert not wrong


async def test_every_route_requires_a_login(sqlite_server: WebServer) -> None:
    nobody, guesser = Steerer(sqlite_server), Steerer(sqlite_server, "a guessed secret")
    for route in await all_routes(sqlite_server):
        for somebody in (nobody, guesser):
            assert (await somebody.call(route.method, address_of(route)))[0] == 401, route.path


FOREIGN: list[dict[str, str | None]] = [
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": None},
    {"Origin": "null", "Sec-Fetch-Site": None},
    {"Origin": None, "Sec-Fetch-Site": None},
    {"Origin": None, "Sec-Fetch-Site": "cross-site"},
    {"Origin": None, "Sec-Fetch-Site": "same-site"},
    {"Origin": SHOP, "Sec-Fetch-Site": None},
    {"X-Myna-Admin": None},
    {"X-Myna-Admin": "yes"},
]


async def test_writes_from_other_sites_are_refused(sqlite_server: WebServer) -> None:
    """Refuse even a site that may embed the chat."""
    admin = await log_in(sqlite_server)
    api = await admin_api(sqlite_server)
    writes = [route for route in (*api.open_routes, *api.own_routes) if route.method != "GET"]
    for route in writes:
        path = route.path.replace("{", "").replace("}", "").removeprefix("/admin/api/")
        for headers in FOREIGN:
            status, found = await admin.call(route.method, path, {"name": "x", "password": "y"}, headers)
            assert (status, found["error"]["code"]) == (403, "not_allowed"), (route.path, headers)
            assert "MYNA_ALLOWED_ORIGINS" not in found["error"]["message"], (
                "which would open the chat and not this page"
            )
    assert (await admin.get("session"))["account"], "nothing was done"


async def test_reads_from_other_sites_are_refused(sqlite_server: WebServer) -> None:
    admin = await log_in(sqlite_server)
    for route in [route for route in await all_routes(sqlite_server) if route.method == "GET"]:
        for site in ("cross-site", "same-site"):
            status, _ = await admin.call("GET", address_of(route), headers={"Sec-Fetch-Site": site})
            assert status == 403, route.path


async def test_responses_are_not_cached_and_the_page_is_not_framed(sqlite_server: WebServer) -> None:
    admin, session = await log_in(sqlite_server), sqlite_server.session
    async with session.get(sqlite_server.url + "/admin/api/session") as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in response.headers
    async with session.get(sqlite_server.url + "/admin/api/audit") as response:
        assert (response.status, response.headers["Cache-Control"]) == (401, "no-store")
    async with session.get(sqlite_server.url + "/admin") as response:
        policy = response.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
    async with session.get(sqlite_server.url + "/admin/static/nothing.js") as response:
        assert response.status == 404
    assert (await admin.call("GET", "no/such/thing"))[0] == 404


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"name": 3, "password": "x"}', b'{"name": "x"}', b'{"name": "' + b"x" * 9999 + b'"}']
)
async def test_malformed_bodies_get_a_clear_answer(sqlite_server: WebServer, body: bytes) -> None:
    headers = {"Origin": sqlite_server.url, "X-Myna-Admin": "1", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(sqlite_server.url + "/admin/api/login", data=body, headers=headers) as response,
    ):
        assert response.status in (400, 413)
        assert (await response.json())["error"]["message"]


async def test_guesses_count_for_the_address_forwarded_by_a_proxy(
    start_agent: StartAgent, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_throttle, "FIRST_WAIT_SECONDS", 600.0)
    async with start_agent(sqlite_url, public_url="http://myna.example") as agent, serve(agent) as server:
        await accounts_of(agent).create(ROOT, "ada", "admin", PASSWORD)
        for _ in range(5):
            guesser = Steerer(server, headers={"X-Forwarded-For": "6.6.6.6, 10.0.0.9"})
            assert (await guesser.refused("login", name="ada", password="wrong"))[0] == 401
        assert (await guesser.refused("login", name="ada", password="wrong"))[0] == 429
        owner = Steerer(server, headers={"X-Forwarded-For": "10.0.0.9, 10.0.0.7"})
        await owner.post("login", name="ada", password=PASSWORD)


async def test_too_many_waiting_hashes_are_answered_as_unavailable(
    sqlite_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.access.accounts.HASHES_WAITING", 0)
    accounts = accounts_of(sqlite_server.agent)
    for _ in range(30):
        with pytest.raises(Unavailable):
            await accounts.authenticate("ada", PASSWORD, "10.0.0.1")
    monkeypatch.setattr("bot.access.accounts.HASHES_WAITING", 64)
    with pytest.raises(NotAuthenticated):  # and no TooManyAttempts: unverified attempts are not counted
        await accounts.authenticate("ada", PASSWORD, "10.0.0.1")
