"""Holds the catalogue and the tests to each other, and writes down what the tests saw.

pytest tests/faults/assembled --write-faults docs/faults.md
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import endpoint, local, local_comfy, ready  # noqa: F401 - fixtures of test_client.py
from tests.faults.assembled import page
from tests.faults.assembled.case import Case, Row
from tests.faults.assembled.catalogue import FAULTS
from tests.faults.assembled.in_process import InProcess

HERE = Path(__file__).parent
TESTS = pytest.StashKey[dict[str, pytest.Item]]()
ROWS = pytest.StashKey[dict[str, Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-faults", metavar="PATH", type=Path, help="write what the tests saw as a table")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(id): the entry of the catalogue that this test makes happen")
    config.stash[TESTS], config.stash[ROWS] = {}, {}


@pytest.hookimpl(tryfirst=True)  # before -k takes some away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests = config.stash.setdefault(TESTS, {})
    problems = []
    for item in items:
        for mark in item.iter_markers("fault"):
            (name,) = mark.args
            if name not in FAULTS:
                problems.append(f"{item.nodeid} makes {name!r} happen, which catalogue.py does not list")
            elif name in tests:
                problems.append(f"{item.nodeid} makes {name!r} happen, as {tests[name].nodeid} does")
            tests[name] = item
    if _all_are_here(config, items):
        problems += [f"no test makes {name!r} happen" for name in FAULTS if name not in tests]
    if problems:
        raise pytest.UsageError("\n".join(problems))


def _all_are_here(config: pytest.Config, items: list[pytest.Item]) -> bool:
    """Whether every file of this folder was collected whole."""
    narrowed = any("::" in argument for argument in config.args)
    return not narrowed and set(HERE.glob("test_*.py")) <= {item.path for item in items}


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The fault that the test is marked with."""
    (mark,) = request.node.iter_markers("fault")
    return Case(FAULTS[mark.args[0]])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    yield
    if item.get_closest_marker("fault"):
        case: Case = item.funcargs["case"]  # type: ignore[attr-defined]
        case.check_done()
        case.row.test, case.row.path = item.originalname, item.nodeid.partition("::")[0]  # type: ignore[attr-defined]
        item.config.stash[ROWS][case.fault.id] = case.row


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = session.config.getoption("--write-faults", None)
    if path is None:
        return
    missing = FAULTS.keys() - session.config.stash[ROWS].keys()
    if exitstatus or missing:
        pytest.exit(f"{path} is not written: tests failed, or nothing was seen of {sorted(missing)}", 1)
    path.write_text(page.written(session.config.stash[ROWS]))


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """Have a worker of the test's own closed after it; answers that worker."""
    with contextlib.ExitStack() as stack:
        yield lambda worker: stack.enter_context(contextlib.closing(worker))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """A worker that the module's tests share; none of them may spoil it."""
    subject = InProcess(tmp_path_factory.mktemp("worker"))
    yield subject
    subject.close()
