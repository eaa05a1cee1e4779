"""docs/api.md is true: its examples run against a live endpoint, and it names every field there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from endpoint.client_api import OPENAPI_FILE
from tests.endpoint.support import KEY
from tests.support.runpod_platform import REPO_ROOT
from worker.errors import Code
from worker.job import FIELDS

PAGE = (REPO_ROOT / "docs" / "api.md").read_text()
BLOCKS = [
    pytest.param(language, code, id=f"{language} at line {PAGE[: PAGE.index(code)].count(chr(10)) + 1}")
    for language, code in re.findall(r"^```(sh|python|js)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
]


def command(language: str) -> list[str]:
    """What runs a block from standard input."""
    if language == "sh":
        return ["bash", "-euo", "pipefail", "-s"]
    if language == "python":
        return [sys.executable, "-W", "error", "-"]
    if not (node := shutil.which("node")):
        pytest.skip("node is not installed")
    version = int(re.match(r"v(\d+)", subprocess.check_output([node, "--version"], text=True))[1])
    return [node, *(["--experimental-websocket"] if version < 22 else []), "--input-type=module", "-"]


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_the_example_runs(live, tmp_path, language, code):
    env = {**os.environ, "ENDPOINT_URL": live.url, "RUNPOD_API_KEY": KEY}
    said = subprocess.run(
        command(language), check=False, input=code, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout


def test_there_is_an_example_of_each_kind():
    assert [block.values[0] for block in BLOCKS] == ["sh", "sh", "sh", "python", "python", "js", "python", "js"]


def test_every_field_and_code_is_named():
    schemas = json.loads(OPENAPI_FILE.read_bytes())["components"]["schemas"]
    names = [*FIELDS, *(code.value for code in Code), *schemas["State"]["enum"]]
    names += [*schemas["JobStatus"]["properties"], *schemas["Policy"]["properties"]]
    missing = [name for name in names if not re.search(rf"\b{name}\b", PAGE)]
    assert not missing


def test_every_option_that_the_page_names_exists():
    said = subprocess.run(
        [sys.executable, "-m", "endpoint", "--help"],
        check=True,
        cwd=REPO_ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    ).stdout
    own = re.split(r"^## An endpoint of your own", PAGE, flags=re.MULTILINE)[1]
    assert [flag for flag in re.findall(r"--[a-z-]+\b", own) if flag not in said] == []


def test_the_example_of_cancel_shows_a_cancelled_job(live, tmp_path):
    code = next(block.values[1] for block in BLOCKS if "/cancel/" in block.values[1])
    env = {**os.environ, "ENDPOINT_URL": live.url, "RUNPOD_API_KEY": KEY}
    answer = subprocess.check_output(command("sh"), input=code, env=env, cwd=tmp_path, text=True, timeout=60)
    assert json.loads(answer)["status"] == "CANCELLED"
