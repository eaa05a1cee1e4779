"""Every code has a meaning for the caller, and every code that is raised is a registered one."""

from __future__ import annotations

import re

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


def test_only_registered_codes_are_raised():
    named = {name for path in SOURCES for name in re.findall(r"Code\.([A-Z_]+)", path.read_text())}
    assert named <= set(Code.__members__)
