"""Accounts and the audit log: `myna account ...` and `myna audit`."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import getpass
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from adapters.cli.terminal import Commands, add, add_group, print_value, say, shell_actor, with_database
from bot.errors import MynaError
from bot.settings import Settings

if TYPE_CHECKING:
    from bot.access.accounts import Accounts
    from storage.learning_values import AuditRow

T = TypeVar("T")


def add_to(commands: Commands) -> None:
    """Add `account ...`."""
    account = add_group(commands, "account", "manage the accounts of staff: roles, passwords, identities on channels")
    create = add(account, "create", "create an account that may log in to the admin page", _create, reports=True)
    create.add_argument("name", help="the login name, like ada")
    create.add_argument("--role", default="viewer", help="viewer, agent, trainer or admin; default: viewer")
    _add_password_option(create)
    add(account, "list", "list all accounts with their roles and linked identities", _list, reports=True)
    role = add(account, "set-role", "change the role of an account", _set_role, reports=True)
    role.add_argument("name", help="the login name")
    role.add_argument("role", help="viewer, agent, trainer or admin")
    password = add(
        account, "password", "change the password of an account and log it out everywhere", _password, reports=True
    )
    password.add_argument("name", help="the login name")
    _add_password_option(password)
    for name, about, command in (
        ("disable", "disable an account and log it out at once", _disable),
        ("enable", "enable a disabled account again", _enable),
    ):
        add(account, name, about, command, reports=True).add_argument("name", help="the login name")
    link = add(
        account,
        "link",
        "link an account to an identity on a channel, so that it may give commands there",
        _link,
        reports=True,
    )
    link.add_argument("name", help="the login name")
    link.add_argument("identity", help="the channel and the id there, like slack:T0123/U0456")
    unlink = add(account, "unlink", "unlink an identity from its account", _unlink, reports=True)
    unlink.add_argument("identity", help="the channel and the id there, like slack:T0123/U0456")


def add_audit_to(commands: Commands) -> None:
    """Add `audit`."""
    audit = add(commands, "audit", "print the audit log, newest first: who did what and when", _audit)
    audit.add_argument("--json", action="store_true", help="print one JSON value a row; with --verify, one in all")
    audit.add_argument("--most", type=int, default=100, metavar="N", help="print at most N rows; default: 100")
    audit.add_argument("--verify", action="store_true", help="check that no row was altered or removed")


def _add_password_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password-stdin",
        action="store_true",
        help="read the password from standard input; default: ask on a terminal, else generate one and print it",
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
    _report_password(arguments, f"{arguments.name} has a new password.", arguments.name, password if made else None)
    return 0


def _choose_password(arguments: argparse.Namespace) -> tuple[str, bool]:
    """Return the password, and True if it was generated here."""
    from bot.access.accounts import check_password, make_password

    if arguments.password_stdin:
        return sys.stdin.readline().rstrip("\r\n"), False
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return make_password(), True
    password = getpass.getpass(f"Password for {arguments.name} (leave empty to generate one): ")
    if not password:
        return make_password(), True
    check_password(arguments.name, password)
    if getpass.getpass("Repeat the password: ") != password:
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
        account.name: [f"{known.channel}:{known.external_id}" for known in identities if known.account == account.name]
        for account in found
    }
    if arguments.json:
        print_value([{**dataclasses.asdict(account), "identities": linked[account.name]} for account in found])
    elif not found:
        print_value("No account yet. `myna account create NAME --role admin` creates one.")
    for account in () if arguments.json else found:
        state = "disabled" if account.disabled_at else account.role
        print_value("  ".join([account.name, state, *linked[account.name]]))
    return 0


def _set_role(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.set_role(shell_actor(), arguments.name, arguments.role))
    return _done(
        arguments, f"{arguments.name} now has the role {arguments.role}.", name=arguments.name, role=arguments.role
    )


def _disable(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.set_disabled(shell_actor(), arguments.name, disabled=True))
    return _done(arguments, f"{arguments.name} can't log in any more.", name=arguments.name, disabled=True)


def _enable(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.set_disabled(shell_actor(), arguments.name, disabled=False))
    return _done(arguments, f"{arguments.name} may log in again.", name=arguments.name, disabled=False)


def _link(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.link(shell_actor(), arguments.name, arguments.identity))
    return _done(
        arguments,
        f"{arguments.identity} is now linked to {arguments.name}.",
        name=arguments.name,
        identity=arguments.identity,
    )


def _unlink(settings: Settings, arguments: argparse.Namespace) -> int:
    _with_accounts(settings, lambda accounts: accounts.unlink(shell_actor(), arguments.identity))
    return _done(arguments, f"{arguments.identity} is no longer linked.", unlinked=arguments.identity)


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
        say("The audit log is empty.")
    return 0


def _verify(settings: Settings, arguments: argparse.Namespace) -> int:
    broken = _with_accounts(settings, lambda accounts: accounts.first_broken(shell_actor()))
    if arguments.json:
        print_value({"ok": broken is None, "first_broken": broken})
    elif broken is None:
        print_value("The audit log is intact.")
    else:
        print_value(f"The audit log was tampered with: row {broken} was altered, or the row before it is missing.")
    return 0 if broken is None else 1


def _in_words(row: AuditRow) -> str:
    at = datetime.datetime.fromtimestamp(row.created_at / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    details = json.dumps(row.details, ensure_ascii=False) if row.details else ""
    cells = (str(row.number), at, row.actor, row.action, row.target or "", details)
    return "  ".join(cell for cell in cells if cell)


def _with_accounts(settings: Settings, work: Callable[[Accounts], Awaitable[T]]) -> T:
    from bot.access.accounts import Accounts

    return with_database(settings, lambda scope: work(Accounts(scope)))
