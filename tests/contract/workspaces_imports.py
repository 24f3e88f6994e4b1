"""Cases of imported and exported conversations for the contract of workspaces."""

from __future__ import annotations

from storage import exports, imports
from storage.imports import ImportedConversation, ImportedFile, ImportedMessage
from storage.transaction import Transaction
from storage.votes import Vote
from tests.contract.workspaces import Case, World, name_of

FILE = ImportedFile("chats.jsonl", "hash of a file", "shell:root")


def imported(key: str) -> ImportedConversation:
    answer = ImportedMessage("bot", "On its way.", vote=Vote(-1, "short", "It left yesterday."))
    return ImportedConversation(key, (ImportedMessage("person", "Where is it?"), answer), group="g", person="ada")


CASES = {
    name_of(imports.take_in): Case(
        [
            lambda tx, w: imports.take_in(tx, [imported("row-2"), imported("row-1")], FILE),
            lambda tx, w: imports.take_in(tx, [imported("row-1")], FILE),
        ]
    ),
    name_of(imports.known_keys): Case(
        [lambda tx, w: imports.known_keys(tx, ["row-1", w.conversation.id])],
        lambda tx, w: imports.known_keys(tx, [w.conversation.id]),
        set(),
    ),
    name_of(exports.page): Case([lambda tx, w: exports.page(tx, "", 0, None)]),
}


def fill(tx: Transaction, world: World) -> None:
    imports.take_in(tx, [imported("row-1")], FILE)
