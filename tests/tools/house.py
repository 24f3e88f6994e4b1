"""Figures of the repository's shape, printed as a table by `python -m tests.tools.house`.

Every figure is read from the files as they are now, so that the same command before and after a change compares them.
Pass another checkout's folder as the only argument to measure that one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

CODE = ("bot", "adapters", "storage")
PYTHON = (*CODE, "migrations", "tests", "benchmarks", "examples")
QUESTION_WORDS = ("What", "Whether", "Who", "How", "Where")
DOCSTRING_OWNERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# The two modules that a training begins in are found by the class that each defines, wherever the files lie.
TRAINING_STARTS = ("Worker", "Training")
# Topics that belong to the learning loop. Errors, settings, the engine, knowledge and SQL are read once, for all loops.
TRAINING_FOLDERS = ("bot.learning", "bot.training", "bot.jobs", "bot.access", "bot.privacy")


class House:
    """The syntax trees of a checkout, parsed once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """Return every module of `CODE` by its dotted name, without `__init__.py`."""
        return {
            ".".join(path.relative_to(self.root).with_suffix("").parts): _parse(path)
            for path in self._files(CODE)
            if path.name != "__init__.py"
        }

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Return each module's direct imports, including those inside functions and for types only."""
        return {name: set(self._imported(tree)) - {name} for name, tree in self.trees.items()}

    def _imported(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                module = name if name in self.trees else name.rpartition(".")[0]
                if module in self.trees:
                    yield module

    def _files(self, folders: Iterable[str]) -> Iterator[Path]:
        for folder in folders:
            yield from sorted(path for path in (self.root / folder).rglob("*.py") if "node_modules" not in path.parts)

    def readme(self) -> tuple[int, int]:
        """Count the lines and words of README.md."""
        text = (self.root / "README.md").read_text(encoding="utf-8")
        return len(text.splitlines()), len(text.split())

    def folder_cycles(self) -> list[str]:
        """List the groups of folders that import each other: among `CODE`, and among the folders that hold modules.

        A module that lies beside subfolders is a node of its own, as it is their common ground (errors, settings).
        """
        top = {name: name.split(".")[0] for name in self.trees}
        parents = {name.rpartition(".")[0] for name in self.trees}
        with_folders = {parent.rpartition(".")[0] for parent in parents}
        room = {name: name if (at := name.rpartition(".")[0]) in with_folders else at for name in self.trees}
        return [*_cycles(self.imports, top), *_cycles(self.imports, room)]

    def import_rules(self) -> int:
        """Count the entries of `MAY_IMPORT` in the architecture test."""
        tree = _parse(self.root / "tests/unit/test_architecture.py")
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "MAY_IMPORT":
                assert isinstance(node.value, ast.Dict)
                return len(node.value.keys)
        raise LookupError("tests/unit/test_architecture.py defines no MAY_IMPORT")

    def question_docstrings(self) -> tuple[int, int]:
        """Count the docstrings that open with a word of `QUESTION_WORDS`, and all docstrings of `CODE`."""
        firsts = [
            docstring.split()[0]
            for path in self._files(CODE)
            for node in ast.walk(_parse(path))
            if isinstance(node, DOCSTRING_OWNERS) and (docstring := ast.get_docstring(node))
        ]
        return sum(first in QUESTION_WORDS for first in firsts), len(firsts)

    def format_skips(self) -> int:
        """Count the comments that keep the formatter off a line, in all folders of Python."""
        # At a line's end only, so that texts about such comments don't count.
        comment = re.compile(r"#\s*fmt:\s*(?:skip|off)\s*$", re.MULTILINE)
        return sum(len(comment.findall(path.read_text(encoding="utf-8"))) for path in self._files(PYTHON))

    def doubled_classes(self) -> dict[str, list[str]]:
        """List the names of classes and type aliases that more than one module defines, with these modules."""
        places: dict[str, set[str]] = defaultdict(set)
        for module, tree in self.trees.items():
            for name in _types_defined(tree):
                places[name].add(module)
        return {name: sorted(found) for name, found in sorted(places.items()) if len(found) > 1}

    def doubled_modules(self) -> dict[str, list[str]]:
        """List the file names that occur in more than one folder, with these folders."""
        places: dict[str, list[str]] = defaultdict(list)
        for module in self.trees:
            folder, _, name = module.rpartition(".")
            places[name].append(folder)
        return {name: sorted(found) for name, found in sorted(places.items()) if len(found) > 1}

    def files_of_a_training(self) -> list[str]:
        """List the modules to open when following a training from the queue to the verdict.

        These are the worker that claims the job, the job itself, and each module of `TRAINING_FOLDERS` that one of the
        two imports: a reader of these two files meets each of those names and has to know what it does. Moving a
        module between topics changes nothing here; joining two that are always read together does.
        """
        starts = [name for name, tree in self.trees.items() if _defines(tree, TRAINING_STARTS) and _is_in_loop(name)]
        if len(starts) != len(TRAINING_STARTS):
            raise LookupError(f"one module each should define {TRAINING_STARTS}; found {starts}")
        named = {target for start in starts for target in self.imports[start] if _is_in_loop(target)}
        return sorted({*starts, *named})


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _types_defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names of a module's classes and of its aliases, such as `Role = Literal[...]`; constants are none."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.lstrip("_")[:1].isupper() and not name.isupper():
                yield name


def _defines(tree: ast.Module, names: Iterable[str]) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name in names for node in tree.body)


def _is_in_loop(module: str) -> bool:
    return module.startswith(tuple(f"{folder}." for folder in TRAINING_FOLDERS))


def _cycles(imports: Mapping[str, set[str]], group_of: Mapping[str, str]) -> list[str]:
    """List the sets of groups that reach each other by imports, each set as one cycle."""
    graph: dict[str, set[str]] = {group: set() for group in group_of.values()}
    for module, targets in imports.items():
        graph[group_of[module]] |= {group_of[target] for target in targets} - {group_of[module]}
    reached = {group: _reached(graph, group) for group in graph}
    cycles = {
        tuple(sorted(other for other in reached[group] if group in reached[other]))
        for group in graph
        if group in reached[group]
    }
    return [" <-> ".join(cycle) for cycle in sorted(cycles)]


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found, waiting = set[str](), [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def figures(house: House) -> list[tuple[str, str, str]]:
    """Name each figure with its value and the places behind it."""
    lines, words = house.readme()
    cycles = house.folder_cycles()
    questions, docstrings = house.question_docstrings()
    classes, modules = house.doubled_classes(), house.doubled_modules()
    return [
        ("README lines / words", f"{lines:,} / {words:,}", ""),
        ("import cycles between folders", str(len(cycles)), "; ".join(cycles)),
        ("import rules", str(house.import_rules()), ""),
        (
            f"docstrings that open with {'/'.join(QUESTION_WORDS)}",
            f"{questions / docstrings:.1%}",
            f"{questions} of {docstrings:,}",
        ),
        ("fmt: skip, all folders", str(house.format_skips()), ""),
        ("class names with more than one meaning", str(len(classes)), ", ".join(classes)),
        ("doubled module names", str(len(modules)), ", ".join(modules)),
        ("files opened to follow one training", str(len(house.files_of_a_training())), ""),
    ]


def main(arguments: list[str]) -> int:
    house = House(Path(arguments[0]) if arguments else Path(__file__).parent.parent.parent)
    print("| figure | measured | which |\n| --- | --- | --- |")
    for row in figures(house):
        print(f"| {' | '.join(row)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
