"""The page in docs/ has the catalogue's rows, and leads to the tests that made them."""

from __future__ import annotations

import ast

import pytest

from tests.faults.assembled.catalogue import AREAS, FAULTS
from tests.faults.assembled.page import rows_of
from worker.settings import REPO_ROOT

PAGE = REPO_ROOT / "docs" / "faults.md"


@pytest.fixture(scope="module")
def rows():
    return rows_of(PAGE.read_text())


def test_the_page_has_one_row_for_each_fault_of_the_catalogue(rows):
    assert [row[:2] for row in rows] == [(area, fault.what) for area, faults in AREAS.items() for fault in faults]


def test_each_row_leads_to_the_test_that_makes_its_fault_happen(rows):
    named = {}
    for path in sorted({path for *_, path in rows}):
        for test in ast.parse((REPO_ROOT / path).read_text()).body:
            if isinstance(test, ast.FunctionDef):
                named[path, test.name] = set(_faults_of(test))
    wrong = [
        what
        for fault, (_, what, test, path) in zip(FAULTS.values(), rows, strict=True)
        if fault.id not in named.get((path, test), ())
    ]
    assert wrong == []


def _faults_of(test: ast.FunctionDef):
    for decorator in test.decorator_list:
        for call in ast.walk(decorator):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "fault":
                yield ast.literal_eval(call.args[0])
