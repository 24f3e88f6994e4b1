"""The list of tests on both kinds of database names tests that there are."""

from __future__ import annotations

import ast

import pytest

from tests.builders.databases import ALL, ON_BOTH, SCENARIOS


@pytest.mark.parametrize("file", ON_BOTH)
def test_what_is_named_is_there(file: str) -> None:
    tree = ast.parse((SCENARIOS / file).read_text(encoding="utf-8"))
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert ON_BOTH[file] == ALL or set(ON_BOTH[file]) <= there
