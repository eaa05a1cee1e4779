"""The order of the rooms: each imports only what stands before it, and no module imports itself through others."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from worker.settings import REPO_ROOT

MOST_MODULES = 20
WORKER = (
    ("net", "text", "errors", "process_id", "input_file_types", "memory"),
    ("stop",),
    ("s3",),
    ("settings", "job"),
    ("logs",),
    ("sites", "inputs"),
    ("downloads",),
    ("models",),
    ("results",),
    ("comfyui",),
    ("runpod_sdk",),
)
CLIENT = (
    ("remote_sink", "runpod", "jobs", "media_types", "s3"),
    ("comfyui", "settings"),
    ("sending",),
    ("results", "config_routes"),
    ("following",),
    ("service",),
    ("routes",),
    ("install",),
)


def imports_of(package: str) -> dict[str, set[str]]:
    """Map each module of a top-level folder to the modules of that folder it imports, for types or anywhere."""
    root = REPO_ROOT / package
    prefix = () if package == "simulator" else (package,)  # the simulator's own folder is on its path
    paths = {}
    for path in (each for each in root.rglob("*.py") if not each.relative_to(root).parts[0].startswith(".")):
        parts = (*prefix, *path.relative_to(root).with_suffix("").parts)
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {module: _imported(module, path, set(paths)) - {module} for module, path in paths.items()}


def _imported(module: str, path: Path, known: set[str]) -> set[str]:
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= (names & known) or {source}
    return found & known


@pytest.mark.parametrize("package", ["worker", "client", "endpoint", "simulator"])
def test_no_module_imports_itself_through_others(package):
    modules = imports_of(package)
    assert len(modules) > 15
    TopologicalSorter(modules).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(("package", "order"), [("worker", WORKER), ("client", CLIENT)])
def test_a_room_imports_only_the_rooms_before_it(package, order):
    level = {f"{package}.{room}": number for number, rooms in enumerate(order) for room in rooms}
    level[package] = (
        -1 if package == "worker" else len(order)
    )  # the worker's holds its version, the client's its install
    modules = imports_of(package)
    assert {_room(module) for module in modules} == set(level)
    against = {
        f"{module} imports {other}"
        for module, imported in modules.items()
        for other in imported
        if _room(other) != _room(module) and level[_room(other)] >= level[_room(module)]
    }
    assert against == set()


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_the_rooms_know_nothing_of_the_three_that_join_them():
    joined = {"handler", "model_manager", "comfy_runner"}
    for path in (REPO_ROOT / "worker").rglob("*.py"):
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        named = {alias.name for node in nodes for alias in node.names} | {getattr(node, "module", "") for node in nodes}
        assert not named & joined, path


def test_a_reader_looks_for_at_most_twenty_modules_in_a_folder():
    folders = {path.parent for package in ("worker", "client", "endpoint", "simulator") for path in _sources(package)}
    crowded = {str(folder): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in crowded.items() if count > MOST_MODULES} == {}


def _sources(package: str) -> list[Path]:
    found = [*(REPO_ROOT / package).rglob("*.py")]
    assert found
    return found


def test_whoever_opens_a_module_finds_its_test_by_name():
    missing = []
    for package in ("worker", "client", "endpoint"):
        for path in _sources(package):
            inside = path.relative_to(REPO_ROOT / package)
            room = inside.parent if package == "worker" and inside.parent.parts else Path(package, inside.parent)
            test = Path("tests", room, f"test_{path.stem.strip('_')}.py")
            if path.name != "__init__.py" and not (REPO_ROOT / test).exists():
                missing.append(str(test))
    assert missing == []
