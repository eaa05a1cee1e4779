"""Every code has a hint for the caller, and the worker raises every code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from worker.errors import Code, WorkerError
from worker.settings import REPO_ROOT

SOURCES = [*REPO_ROOT.glob("*.py"), *(REPO_ROOT / "worker").rglob("*.py")]


@pytest.mark.parametrize("code", list(Code))
def test_every_code_says_what_to_do(code):
    assert code.value == code.name
    assert code.hint.endswith(".")


def test_the_string_alone_is_enough():
    error = WorkerError(Code.TIMEOUT, "it took too long.", details={"a": 1}, refresh_worker=True)
    answer = error.answer()
    assert answer["error"] == f"TIMEOUT: it took too long. {Code.TIMEOUT.hint}"
    assert answer == {"error": str(error), "error_code": "TIMEOUT", "details": {"a": 1}, "refresh_worker": True}


def raised_codes() -> set[str]:
    """Return the codes that the product names outside their definition, but for those it only compares with."""
    named = set()
    for path in SOURCES:
        if path != REPO_ROOT / "worker" / "errors.py":
            nodes = _without_comparisons(ast.parse(path.read_text()))
            named |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_code(node.value)}
    return named


def _without_comparisons(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.Compare):
            yield node
            yield from _without_comparisons(node)


def _is_code(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "Code"


def test_every_code_is_raised_and_no_other():
    assert len(SOURCES) > 60, "the product's files were not found"
    assert {"handler.py", "comfy_runner.py", "model_manager.py"} <= {path.name for path in SOURCES}
    assert raised_codes() == set(Code.__members__)
