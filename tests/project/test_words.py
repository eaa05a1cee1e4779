"""The rule for names and docstrings that ruff does not know: CONTRIBUTING.md, "Names and words"."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from worker.settings import REPO_ROOT

PRODUCT = ("worker", "client", "endpoint", "simulator")
JOINED = ("handler.py", "model_manager.py", "comfy_runner.py")
NO_VERB = ("What ", "Whether ", "Where ", "How ", "Those ", "Whoever ")
COMFYUI_NAMES = ("simulator",)  # its classes have ComfyUI's names, which are not ours to choose


def sources(*packages: str) -> list[Path]:
    """The product's Python files."""
    found = [REPO_ROOT / name for name in JOINED]
    for package in packages:
        below = [path for path in (REPO_ROOT / package).rglob("*.py") if ".mypy_cache" not in path.parts]
        assert below, package
        found += below
    return found


def test_no_docstring_begins_with_a_clause_that_has_no_verb_to_hold_on_to():
    odd = []
    for path in sources(*PRODUCT):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # of a constant or a field as well
                text = str(node.value.value).lstrip()
                if text.startswith(NO_VERB):
                    odd.append(f"{path.relative_to(REPO_ROOT)}: {text.splitlines()[0]}")
    assert odd == []


def test_no_two_classes_share_a_name():
    places = defaultdict(list)
    for path in sources(*(package for package in PRODUCT if package not in COMFYUI_NAMES)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(REPO_ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
