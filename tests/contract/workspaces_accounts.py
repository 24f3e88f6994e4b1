"""Cases of accounts for the contract of workspaces."""

from __future__ import annotations

from storage import accounts, audit
from storage.transaction import Transaction
from tests.contract.workspaces import LEASE_MS, Case, World, name_of

IDLE_MS = MOST_MS = LEASE_MS
WHO = "shell:root"

# Names and channel ids are the same in both workspaces; secrets' hashes are not.
CASES = {
    name_of(accounts.create): Case([lambda tx, w: accounts.create(tx, WHO, "bob", "viewer", "hash")]),
    name_of(accounts.find): Case([lambda tx, w: accounts.find(tx, "ada")]),
    name_of(accounts.list_all): Case([lambda tx, w: accounts.list_all(tx)]),
    name_of(accounts.set_role): Case([lambda tx, w: accounts.set_role(tx, WHO, "carl", "agent")]),
    name_of(accounts.set_password): Case([lambda tx, w: accounts.set_password(tx, WHO, "ada", "other hash")]),
    name_of(accounts.rehash_password): Case([lambda tx, w: accounts.rehash_password(tx, "ada", "newer hash")]),
    name_of(accounts.set_disabled): Case([lambda tx, w: accounts.set_disabled(tx, WHO, "carl", True)]),
    name_of(accounts.credentials): Case([lambda tx, w: accounts.credentials(tx, "ada")]),
    name_of(accounts.begin_session): Case(
        [lambda tx, w: accounts.begin_session(tx, "ada", f"another of {w.conversation.id}", IDLE_MS, MOST_MS)]
    ),
    name_of(accounts.find_session): Case(
        [lambda tx, w: accounts.find_session(tx, w.things["session"], IDLE_MS, MOST_MS)],
        lambda tx, w: accounts.find_session(tx, w.things["session"], IDLE_MS, MOST_MS),
        None,
    ),
    name_of(accounts.touch_session): Case(
        [lambda tx, w: accounts.touch_session(tx, w.things["session"])],
        lambda tx, w: accounts.touch_session(tx, w.things["session"]),
        False,
    ),
    name_of(accounts.end_session): Case(
        [lambda tx, w: accounts.end_session(tx, w.things["session"])],
        lambda tx, w: accounts.end_session(tx, w.things["session"]),
        False,
    ),
    name_of(accounts.link): Case([lambda tx, w: accounts.link(tx, WHO, "ada", "slack", "T1/U9")]),
    name_of(accounts.unlink): Case([lambda tx, w: accounts.unlink(tx, WHO, "slack", "T1/U2")]),
    name_of(accounts.identities): Case([lambda tx, w: accounts.identities(tx)]),
    name_of(accounts.who_is): Case([lambda tx, w: accounts.who_is(tx, "slack", "T1/U2")]),
}


def fill(tx: Transaction, world: World) -> None:
    world.things["session"] = f"hash of a session of {world.conversation.id}"
    # The first row of the log differs, or the hashes of both workspaces' logs would be the same.
    audit.record(tx, WHO, "test.began", world.conversation.id)
    accounts.create(tx, WHO, "ada", "admin", "hash")
    accounts.create(tx, WHO, "carl", "trainer", "hash")
    accounts.begin_session(tx, "ada", world.things["session"], IDLE_MS, MOST_MS)
    accounts.link(tx, WHO, "ada", "slack", "T1/U2")
