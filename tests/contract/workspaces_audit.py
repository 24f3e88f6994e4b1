"""Cases of the audit log for the contract of workspaces."""

from __future__ import annotations

from storage import audit
from storage.transaction import Transaction
from tests.contract.workspaces import Case, World, name_of

CASES = {
    name_of(audit.record): Case([lambda tx, w: audit.record(tx, "shell:root", "version.promote", "bot-v2")]),
    name_of(audit.page): Case([lambda tx, w: audit.page(tx)]),
    name_of(audit.of_actions): Case([lambda tx, w: audit.of_actions(tx, ["job.create"])]),
    name_of(audit.first_broken): Case([lambda tx, w: [audit.first_broken(tx)]]),
}


def fill(tx: Transaction, world: World) -> None:
    audit.record(tx, "shell:root", "job.create", world.conversation.id, {"rows": 2})
