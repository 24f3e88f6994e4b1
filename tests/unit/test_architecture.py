"""Rules of the architecture, read from the syntax trees: import directions, and SQL across workspaces.

Imports for types only and inside functions count.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("adapters", "bot", "migrations", "storage")
MAX_LINES = 450

# The direction of the rooms, lowest first: a room may import itself, `COMMON` and what stands behind its name.
# Of two rooms that fit, the first one counts.
COMMON = ("bot.errors", "bot.settings", "bot.metrics", "bot.words", "storage")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "storage": ("migrations",),
    "migrations": (),
    "bot.access": (),
    "bot.generation": (),
    "bot.jobs": ("bot.access",),
    "bot.privacy.erasure": ("bot.access", "bot.jobs", "bot.learning"),
    "bot.privacy": (),
    "bot.knowledge": ("bot.access", "bot.jobs", "bot.generation.models"),
    "bot.learning": ("bot.access", "bot.privacy", "bot.jobs", "bot.knowledge", "bot.generation"),
    "bot.chat": ("bot.generation", "bot.knowledge", "bot.learning.release"),
    "bot.completions": ("bot.generation", "bot.chat", "bot.learning.release"),
    "bot.steering": ("bot.access", "bot.privacy", "bot.jobs", "bot.learning"),
    "adapters": ("bot",),
}
# The composition root and the commands: nothing else may import them.
COMPOSITION = "adapters.cli"
# What opens connections and runs statements on them; all else in `storage` has a transaction.
BELOW_THE_DOOR = {"storage.transaction", "storage.engines", "storage.migrate"}

# Every statement that is not confined to one workspace, by file and the name it is given.
CROSSES_WORKSPACES = {
    ("storage/audit.py", "_NOW"),
    ("storage/database.py", "_ANY_WORKSPACE"),
    ("storage/inbox.py", "_CLAIM"),
    ("storage/inbox.py", "_HEARTBEAT"),
    ("storage/inbox.py", "_FREE_ALL"),
    ("storage/jobs.py", "_CLAIM"),
    ("storage/jobs.py", "_ENDED"),
    ("storage/jobs.py", "_GIVE_UP_ABANDONED"),
    ("storage/jobs.py", "_IS_WAITING"),
    ("storage/outbox.py", "_CLAIM"),
    ("storage/outbox.py", "_FREE_ALL"),
}


def module_files() -> dict[str, Path]:
    """Return every module of ours by its dotted name."""
    files = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


MODULES = module_files()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imported_names(name: str, tree: ast.Module) -> Iterator[str]:
    """Return our names that a module imports anywhere in it: `storage.values.new_id`, `storage.inbox`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} uses a relative import; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (one for one in names if one.split(".")[0] in PACKAGES)


def module_of(dotted: str) -> str:
    """Return the module that holds a dotted name."""
    while dotted not in MODULES:
        dotted = dotted.rpartition(".")[0]
    return dotted


EDGES = [(name, target) for name, tree in TREES.items() for target in imported_names(name, tree)]


def covers(rule: str, dotted: str) -> bool:
    return dotted == rule or dotted.startswith(f"{rule}.")


def room_of(module: str) -> str | None:
    """Return a module's room, `bot.learning` for `bot.learning.judge.gate`; None if every room may import it."""
    return next((room for room in MAY_IMPORT if covers(room, module)), None)


def may_import(module: str, target: str) -> bool:
    room = room_of(module)
    common = COMMON if module.startswith(("bot.", "adapters.")) else ("storage",)
    allowed = common if room is None else (room, *MAY_IMPORT[room], *common)
    return any(covers(rule, target) for rule in allowed)


def test_every_import_follows_the_direction_of_the_rooms() -> None:
    wrong = [f"{module} may not import {target}" for module, target in EDGES if not may_import(module, target)]
    assert not wrong, "\n".join(wrong)


def test_a_forbidden_import_is_refused() -> None:
    assert not may_import("bot.chat.turns", "adapters.web.chat_api")
    assert not may_import("bot.access.roles", "bot.learning.versions")
    assert not may_import("storage.inbox", "bot.errors")
    assert may_import("bot.learning.train.train_job", "bot.jobs.contract")


def test_the_walk_sees_imports_inside_functions_and_for_types_only() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    from bot.errors import MynaError\ndef f():\n    import storage.inbox\n")
    assert sorted(imported_names("x", tree)) == ["bot.errors.MynaError", "storage.inbox"]
    assert ("adapters.cli.serve_commands", "adapters.cli.wiring") in EDGES, "commands import inside their functions"


def test_every_folder_is_a_room_or_lies_in_one() -> None:
    without = [
        name for name in MODULES if name.count(".") > 1 and room_of(name) is None and not covers("bot.words", name)
    ]
    assert not without, f"say in MAY_IMPORT what these may import: {without}"
    assert not {room for room in MAY_IMPORT if room not in MODULES}, "rules about rooms that don't exist"


def test_only_commands_import_the_composition_root() -> None:
    others = {module for module, target in EDGES if covers(COMPOSITION, target) and not covers(COMPOSITION, module)}
    assert not others


def fail_on_cycle(edges: Iterable[tuple[str, str]]) -> None:
    graph: dict[str, set[str]] = {}
    for importer, imported in edges:
        if importer != imported:
            graph.setdefault(importer, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' <- '.join(error.args[1])}")


def test_modules_import_without_cycles() -> None:
    # A package's own `__init__` is empty, so that it takes no part in a cycle.
    fail_on_cycle((module, module_of(target)) for module, target in EDGES if module_of(target) != module)


def test_folders_import_without_cycles() -> None:
    def folder(module: str) -> str:
        return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]

    # `storage.migrate` runs Alembic on the folder of migrations, which use the schema.
    edges = [(module, target) for module, target in EDGES if not covers("migrations", target)]
    fail_on_cycle((folder(module), folder(module_of(target))) for module, target in edges)


def test_the_path_of_a_message_loads_no_model_library() -> None:
    check = "import sys, bot.chat.turns; print([one for one in ('torch', 'transformers') if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_shows_its_help_without_the_database_or_a_model() -> None:
    heavy = "('torch', 'transformers', 'sqlalchemy', 'aiohttp')"
    check = f"import sys, adapters.cli.main; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_test_module_imports_from_another() -> None:
    """Shared code lies in `tests/builders` and `tests/fixtures`, so that each test can be moved and run alone."""
    folders = [folder for folder in (ROOT / "tests").iterdir() if folder.is_dir() and folder.name != "node_modules"]
    imported = [
        (path.relative_to(ROOT).as_posix(), name)
        for path in sorted(path for folder in folders for path in folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
        if name.startswith("tests.")
    ]
    assert any(name.startswith("tests.builders.") for _, name in imported), "the walk sees the tests"
    assert not [one for one in imported if any(part.startswith("test_") for part in one[1].split("."))]


def test_packages_re_export_nothing() -> None:
    filled = [
        str(path.relative_to(ROOT)) for path in MODULES.values() if path.name == "__init__.py" and path.read_text()
    ]
    assert not filled


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name != "__init__.py"])
def test_every_module_docstring_begins_with_a_sentence(name: str) -> None:
    docstring = ast.get_docstring(TREES[name])
    assert docstring, f"{name} has no docstring"
    first = docstring.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":")), f"{name}: the docstring begins with a sentence"


@pytest.mark.parametrize("name", [name for name in MODULES if not covers("migrations", name)])
def test_no_module_is_too_long_to_read(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def uses_across_workspaces() -> Iterator[tuple[str, str]]:
    for name, tree in TREES.items():
        calls = {
            id(node): node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "across_workspaces"
        }
        file = MODULES[name].relative_to(ROOT).as_posix()
        for node in tree.body:
            if isinstance(node, ast.Assign) and id(node.value) in calls:
                del calls[id(node.value)]
                yield file, ast.unparse(node.targets[0])
        for call in calls.values():
            yield file, f"line {call.lineno}, not a constant of the module"


def test_only_the_listed_statements_cross_workspaces() -> None:
    assert set(uses_across_workspaces()) == CROSSES_WORKSPACES


def test_only_storage_speaks_sql() -> None:
    outside = [
        name
        for name, tree in TREES.items()
        if not covers("storage", name) and not covers("migrations", name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for one in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if one.split(".")[0] in ("sqlalchemy", "sqlite3", "psycopg")
    ]
    assert not outside


def test_statements_are_executed_by_scoped_only() -> None:
    """`scoped` protects nothing if a module executes on the connection itself."""
    direct = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        if covers("storage", name) and name not in BELOW_THE_DOOR
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("connection", "exec_driver_sql")
    ]
    assert not direct
