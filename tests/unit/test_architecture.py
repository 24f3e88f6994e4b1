"""The rules of the house, read from the syntax trees: who may import whom, and who crosses workspaces.

Knows: the allowed edges; imports for types only and inside functions count. Does not know: what any module does.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("adapters", "bot", "migrations", "storage")
MAX_LINES = 450

# Who may import whom: a name stands for the module and all below it. What is not here is forbidden.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "storage": ("storage",),
    "storage.migrate": ("migrations",),
    "migrations": ("storage.engines", "storage.knowledge_schema", "storage.database.StorageUnavailable"),
    "bot.errors": (),
    "bot.generator": (),
    "bot.sampling": ("bot.generator", "bot.errors"),
    "bot.metrics": (),
    "bot.notices": (),
    "bot.settings": ("bot.errors",),
    "bot.live": ("storage.values",),
    "bot.prompt": ("storage.values", "bot.generator", "bot.errors"),
    "bot.export": ("storage", "bot.prompt"),
    "bot.memory": ("storage", "bot.errors"),
    "bot.feedback": ("storage", "bot.errors"),
    "bot.vault": ("bot.errors",),
    "bot.installation": ("storage", "bot.errors", "bot.settings", "bot.vault"),
    "bot.delivery": ("storage", "bot.live"),
    "bot.openai_wire": ("bot.generator", "bot.errors"),
    "bot.remote": ("bot.openai_wire", "bot.generator", "bot.sampling", "bot.errors"),
    "bot.api_access": ("storage", "bot.errors"),
    "bot.forced_calls": ("storage.values", "bot.generator", "bot.errors"),
    "bot.following": ("storage", "bot.live", "bot.memory"),
    "bot.completions": (
        *("storage", "bot.api_access", "bot.forced_calls", "bot.generator", "bot.learning.loaded_versions"),
        *("bot.live", "bot.metrics", "bot.errors"),
    ),
    # Folders of models, and where they come from.
    "bot.models": ("bot.models", "bot.errors"),
    "bot.engine": ("bot.engine", "bot.models", "bot.generator", "bot.sampling", "bot.errors"),
    "bot.conversation": (
        *("storage", "bot.generator", "bot.live", "bot.following", "bot.replying", "bot.knowledge.grounding"),
        *("bot.learning.loaded_versions", "bot.metrics", "bot.errors"),
    ),
    "bot.replying": (
        *("storage", "bot.prompt", "bot.generator", "bot.live", "bot.knowledge.grounding", "bot.knowledge.cited_text"),
        *("bot.learning.loaded_versions", "bot.metrics", "bot.notices", "bot.errors"),
    ),
    # Articles, passages and how they are found.
    "bot.knowledge": (
        *("bot.knowledge", "bot.models", "bot.learning.roles", "bot.training.job_context", "bot.errors", "storage"),
    ),
    "bot.knowledge.setup": ("bot.settings",),
    # The learning loop's control: what people steer, in any process.
    "bot.learning": ("bot.learning", "bot.generator", "bot.errors", "storage"),
    # What turns feedback into weights and judges them, in a process of its own.
    "bot.training": (
        *("bot.training", "bot.learning", "bot.engine", "bot.prompt", "bot.generator", "bot.settings", "bot.errors"),
        *("bot.knowledge", "bot.models", "storage"),
    ),
    "adapters.article_links": ("storage.knowledge_values",),
    "adapters.web": ("adapters.web",),
    "adapters.web.chat_api": ("adapters.article_links", "bot.feedback", "storage.votes"),
    "adapters.web.articles": ("adapters.article_links", "bot.knowledge.library", "storage.knowledge_values"),
    "adapters.web.steering": (
        *("bot.learning.commands", "bot.learning.command_lines", "bot.learning.command_words", "bot.learning.roles"),
    ),
    "adapters.web.feedback_api": ("bot.feedback", "bot.learning.consent", "storage.votes"),
    "adapters.console": (
        *("bot.feedback", "bot.learning.consent", "bot.learning.commands", "bot.learning.command_lines"),
        "bot.learning.roles",
    ),
    "adapters.admin": ("adapters.admin", "adapters.web", "bot.feedback", "bot.learning", "storage"),
    "adapters.admin.articles_api": ("bot.knowledge.library", "bot.knowledge.grounding"),
    "adapters.admin.answers_api": ("bot.knowledge.calibration", "bot.knowledge.curated", "bot.knowledge.grounding"),
    "adapters.admin.gaps_api": ("bot.knowledge.gaps",),
    "adapters.admin.intents_api": ("bot.knowledge.intent_file", "bot.knowledge.intents"),
    "adapters.admin.assembly": (
        *("bot.knowledge.calibration", "bot.knowledge.gaps", "bot.knowledge.grounding", "bot.knowledge.library"),
    ),
    "adapters.slack": (
        *("adapters.article_links", "adapters.slack", "bot.delivery", "bot.feedback", "bot.learning.consent"),
        *("bot.vault", "storage.values"),
        *("storage.database", "storage.shown_parts", "storage.slack_installs", "storage.seen_events"),
        *("bot.learning.accounts", "bot.learning.commands", "bot.learning.command_lines", "bot.learning.roles"),
    ),
    "adapters.openai_api": ("adapters", "bot.api_access", "bot.completions", "bot.generator"),
    "adapters.openai_feedback": (
        *("adapters", "bot.api_access", "bot.feedback", "bot.learning.consent", "storage.votes"),
    ),
    "adapters.openai_parsing": ("bot.completions", "bot.generator"),
    "adapters.openai_answers": ("bot.generator",),
    "adapters": (
        *("bot.conversation", "bot.errors", "bot.live", "bot.metrics"),
        *("storage.values", "storage.database.StorageUnavailable"),
    ),
    "bot.app": ("adapters", "bot", "storage"),
    "bot.commands": ("adapters.console", "adapters.slack", "bot", "storage"),
    "bot.cli": ("bot.commands", "bot.errors", "bot.settings"),
}
# What opens connections and runs statements on them; all else in `storage` has a transaction.
BELOW_THE_DOOR = {"storage.transaction", "storage.engines", "storage.migrate"}
# By whom these are imported, as above; by nobody else.
ONLY_IMPORTED_BY: dict[str, tuple[str, ...]] = {"bot.app": ("bot.commands",), "bot.cli": ()}

# Every statement that is not confined to one workspace, by file and the name it is given.
CROSSES_WORKSPACES = {
    ("storage/audit.py", "_NOW"),
    ("storage/health.py", "_ANY"),
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
    """Every module of ours by its dotted name."""
    files = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


MODULES = module_files()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imported_names(name: str, tree: ast.Module) -> Iterator[str]:
    """The dotted names of ours that a module imports, wherever in it: `storage.values.new_id`, `storage.inbox`."""
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
    """The module that holds a dotted name."""
    while dotted not in MODULES:
        dotted = dotted.rpartition(".")[0]
    return dotted


EDGES = [(name, target) for name, tree in TREES.items() for target in imported_names(name, tree)]


def covers(rule: str, dotted: str) -> bool:
    return dotted == rule or dotted.startswith(f"{rule}.")


def allowed_for(module: str) -> tuple[str, ...]:
    return tuple(target for rule, targets in MAY_IMPORT.items() if covers(rule, module) for target in targets)


def test_every_import_follows_the_direction_of_the_architecture() -> None:
    wrong = [
        f"{module} may not import {target}"
        for module, target in EDGES
        if not any(covers(rule, target) for rule in allowed_for(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_walk_sees_imports_inside_functions_and_for_types_only() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    from bot.app import Agent\ndef f():\n    import storage.inbox\n")
    assert sorted(imported_names("x", tree)) == ["bot.app.Agent", "storage.inbox"]
    assert ("bot.commands.serving", "bot.app") in EDGES, "commands import the composition inside their functions"


def test_every_module_of_bot_has_a_rule_of_its_own() -> None:
    without = [name for name in MODULES if name.count(".") and not any(covers(rule, name) for rule in MAY_IMPORT)]
    assert not without, f"say in MAY_IMPORT what these may import: {without}"


def test_every_rule_is_about_something_that_exists() -> None:
    gone = {rule for rule in MAY_IMPORT if rule not in MODULES}
    assert not gone


@pytest.mark.parametrize("target", ONLY_IMPORTED_BY)
def test_the_composition_is_imported_by_the_commands_only(target: str) -> None:
    importing = {module for module, imported in EDGES if covers(target, imported)}
    others = [one for one in importing if not any(covers(rule, one) for rule in ONLY_IMPORTED_BY[target])]
    assert not others


def test_no_module_imports_itself_through_others() -> None:
    # A package's own `__init__` is empty, so that it takes no part in a cycle.
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for module, target in EDGES:
        graph[module].add(module_of(target))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' <- '.join(error.args[1])}")


def test_the_path_of_a_message_loads_no_model_library() -> None:
    check = "import sys, bot.conversation; print([one for one in ('torch', 'transformers') if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_shows_its_help_without_the_database_or_a_model() -> None:
    heavy = "('torch', 'transformers', 'sqlalchemy', 'aiohttp')"
    check = f"import sys, bot.cli; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_packages_re_export_nothing() -> None:
    filled = [
        str(path.relative_to(ROOT)) for path in MODULES.values() if path.name == "__init__.py" and path.read_text()
    ]
    assert not filled


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name != "__init__.py"])
def test_every_module_says_what_it_knows(name: str) -> None:
    docstring = ast.get_docstring(TREES[name])
    assert docstring, f"{name} has no docstring"
    first = docstring.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":")), f"{name}: the docstring begins with a sentence"


@pytest.mark.parametrize("name", MODULES)
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


def test_nothing_but_storage_speaks_sql() -> None:
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


def test_statements_reach_the_database_through_the_one_door() -> None:
    """`scoped` is worth nothing if somebody executes on the connection itself."""
    direct = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        if covers("storage", name) and name not in BELOW_THE_DOOR
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("connection", "exec_driver_sql")
    ]
    assert not direct
