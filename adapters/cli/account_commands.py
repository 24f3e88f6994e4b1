"""Accounts of those who steer, and what was done: `myna account ...` and `myna audit`.

Knows: how a password is asked for, how accounts and audit rows are listed. Does not know: how passwords are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import getpass
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from adapters.cli.terminal import Commands, add, print_value, say, shell_actor, with_database
from bot.errors import MynaError
from bot.settings import Settings

if TYPE_CHECKING:
    from bot.access.accounts import Accounts
    from storage.learning_values import AuditRow

T = TypeVar("T")


def add_to(commands: Commands) -> None:
    """Add `account` with its actions, and `audit`."""
    account = commands.add_parser("account", help="who may steer, and how they log in").add_subparsers(
        required=True, metavar="ACTION"
    )
    create = add(account, "create", "add somebody who may log in to the admin page", _create, reports=True)
    create.add_argument("name", help="their name there, like ada")
    create.add_argument("--role", default="viewer", help="viewer, agent, trainer or admin (default: viewer)")
    _add_password_option(create)
    add(account, "list", "list all accounts", _list, reports=True)
    role = add(account, "set-role", "give somebody another role", _set_role, reports=True)
    role.add_argument("name")
    role.add_argument("role", help="viewer, agent, trainer or admin")
    password = add(account, "password", "give somebody another password, and end their logins", _password, reports=True)
    password.add_argument("name")
    _add_password_option(password)
    for name, what_for, command in (
        ("disable", "shut somebody out at once", _disable),
        ("enable", "let somebody in again", _enable),
    ):
        add(account, name, what_for, command, reports=True).add_argument("name")
    link = add(account, "link", "say who somebody is on a channel, for commands given there", _link, reports=True)
    link.add_argument("name")
    link.add_argument("identity", help="channel and id there, like slack:T0123/U0456")
    unlink = add(account, "unlink", "take that back", _unlink, reports=True)
    unlink.add_argument("identity", help="channel and id there, like slack:T0123/U0456")


def add_audit_to(commands: Commands) -> None:
    """Add `audit`."""
    audit = add(commands, "audit", "print what was done and by whom, newest first", _audit)
    audit.add_argument("--json", action="store_true", help="print JSON lines; with --verify one value")
    audit.add_argument("--most", type=int, default=100, metavar="N", help="how many rows (default: 100)")
    audit.add_argument("--verify", action="store_true", help="check that no row was changed or taken out")


def _add_password_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password-stdin",
        action="store_true",
        help="read the password from standard input (default: ask on a terminal, else make one and print it)",
    )


def _create(settings: Settings, arguments: argparse.Namespace) -> int:
    password, made = _choose_password(arguments)
    name = _with_accounts(
        settings, lambda accounts: accounts.create(shell_actor(), arguments.name, arguments.role, password)
    )
    _report_password(arguments, f"{name} may log in as {arguments.role}.", name, password if made else None)
    return 0


def _password(settings: Settings, arguments: argparse.Namespace) -> int:
    password, made = _choose_password(arguments)
    _with_accounts(settings, lambda accounts: accounts.set_password(shell_actor(), arguments.name, password))
    _report_password(arguments, f"{arguments.name} has another password.", arguments.name, password if made else None)
    return 0


def _choose_password(arguments: argparse.Namespace) -> tuple[str, bool]:
    """`(password, whether it was made here)`."""
    from bot.access.accounts import check_password, make_password

    if arguments.password_stdin:
        return sys.stdin.readline().rstrip("\r\n"), False
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return make_password(), True
    password = getpass.getpass(f"Password for {arguments.name} (nothing: make one): ")
    if not password:
        return make_password(), True
    check_password(arguments.name, password)
    if getpass.getpass("Once more: ") != password:
        raise MynaError("The two passwords differ. Nothing was changed.")
    return password, False


def _report_password(arguments: argparse.Namespace, text: str, name: str, made: str | None) -> None:
    if arguments.json:
        print_value({"name": name, **({"password": made} if made else {})})
        return
    say(text)
    if made:
        print_value(made)
        say("This is the password. Keep it safe: it can't be shown again.")


def _list(settings: Settings, arguments: argparse.Namespace) -> int:
    found, identities = _with_accounts(settings, lambda accounts: accounts.list_all(shell_actor()))
    linked = {
        one.name: [f"{who.channel}:{who.external_id}" for who in identities if who.account == one.name] for one in found
    }
    if arguments.json:
        print_value([{**dataclasses.asdict(one), "identities": linked[one.name]} for one in found])
    elif not found:
        print_value("No account yet. `myna account create NAME --role admin` makes one.")
    for one in () if arguments.json else found:
        state = "disabled" if one.disabled_at else one.role
        print_value("  ".join([one.name, state, *linked[one.name]]))
    return 0


def _set_role(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.set_role(shell_actor(), arguments.name, arguments.role))
    return _done(arguments, f"{arguments.name} is {arguments.role} now.", name=arguments.name, role=arguments.role)


def _disable(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.set_disabled(shell_actor(), arguments.name, disabled=True))
    return _done(arguments, f"{arguments.name} can't log in any more.", name=arguments.name, disabled=True)


def _enable(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.set_disabled(shell_actor(), arguments.name, disabled=False))
    return _done(arguments, f"{arguments.name} may log in again.", name=arguments.name, disabled=False)


def _link(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.link(shell_actor(), arguments.name, arguments.identity))
    return _done(
        arguments, f"{arguments.identity} is {arguments.name} now.", name=arguments.name, identity=arguments.identity
    )


def _unlink(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.unlink(shell_actor(), arguments.identity))
    return _done(arguments, f"{arguments.identity} is nobody's any more.", unlinked=arguments.identity)


def _done(arguments: argparse.Namespace, text: str, **values: object) -> int:
    print_value(values if arguments.json else text)
    return 0


def _audit(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.verify:
        return _verify(settings, arguments)
    rows = _with_accounts(settings, lambda accounts: accounts.audit_page(shell_actor(), most=max(arguments.most, 1)))
    for row in rows:
        print_value(dataclasses.asdict(row) if arguments.json else _in_words(row))
    if not rows and not arguments.json:
        say("Nothing was done yet.")
    return 0


def _verify(settings: Settings, arguments: argparse.Namespace) -> int:
    broken = _with_accounts(settings, lambda accounts: accounts.first_broken(shell_actor()))
    if arguments.json:
        print_value({"ok": broken is None, "first_broken": broken})
    elif broken is None:
        print_value("The audit log is whole.")
    else:
        print_value(
            f"The audit log was changed behind Myna's back: row {broken} is not what was written after row "
            f"{broken - 1}."
        )
    return 0 if broken is None else 1


def _in_words(row: AuditRow) -> str:
    at = datetime.datetime.fromtimestamp(row.created_at / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    details = json.dumps(row.details, ensure_ascii=False) if row.details else ""
    return "  ".join(one for one in (str(row.number), at, row.actor, row.action, row.target or "", details) if one)


def _with_accounts(settings: Settings, work: Callable[[Accounts], Awaitable[T]]) -> T:
    from bot.access.accounts import Accounts

    return with_database(settings, lambda scope: work(Accounts(scope)))
