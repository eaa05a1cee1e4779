"""Runs every test under coverage and writes docs/coverage.md: how much of each module ran.

    python scripts/module_coverage.py                the whole suite
    python scripts/module_coverage.py tests/unit     some of it: prints the table and writes nothing
    python scripts/module_coverage.py --again        the table of the last run, without a test

Ends with 1 when a test fails, when a module under 90 % has no reason in tests/coverage_reasons.json, or when a reason
there is not needed any more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REASONS = ROOT / "tests/coverage_reasons.json"
PAGE = ROOT / "docs/coverage.md"
ENOUGH = 90
MODULES = ("handler.py", "comfy_runner.py", "model_manager.py", "worker/*.py", "endpoint/*.py", "client/*.py")
HEAD = """# How much of the code the tests run

Written by `make coverage`: every line of the worker, the endpoint and the client that ran in any test, in whatever
process, in percent of the module's lines. A module under {enough} % says why below the table. `tests/image` is left
out (it measures an image, not this tree).

| module | lines | covered |
|---|--:|--:|
"""


def main(arguments: list[str]) -> int:
    """Run, measure, write, judge."""
    chosen = [argument for argument in arguments if argument != "--again"]
    status = 0
    if "--again" not in arguments:
        status = _run_tests(chosen or ["--ignore=tests/image"])
    covered = _measure()
    reasons: dict[str, str] = json.loads(REASONS.read_text())
    page = _page(covered, reasons)
    sys.stdout.write(page)
    if chosen:
        return status
    if status == 0:
        PAGE.write_text(page)
    problems = _problems(covered, reasons)
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return status or int(bool(problems))


def _run_tests(chosen: list[str]) -> int:
    _coverage("erase")
    command = ["run", "-m", "pytest", "-p", "tests.support.coverage_end", *chosen]
    status = _coverage(*command)
    _coverage("combine", "--quiet")
    return status


def _coverage(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT, check=False).returncode


def _measure() -> dict[str, tuple[int, float]]:
    """Module -> its lines and the percentage of them that ran; a module that no test imports has none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coverage.json")
        _coverage("json", "--quiet", "--ignore-errors", "-o", str(path))
        files = json.loads(path.read_text())["files"]
    found = {}
    for pattern in MODULES:
        for module in sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)):
            summary = files.get(module, {}).get("summary", {"num_statements": 0, "percent_covered": 0.0})
            found[module] = (summary["num_statements"], summary["percent_covered"])
    return found


def _page(covered: Mapping[str, tuple[int, float]], reasons: Mapping[str, str]) -> str:
    rows = "".join(f"| `{name}` | {lines} | {percent:.0f} % |\n" for name, (lines, percent) in covered.items())
    total = sum(lines for lines, _ in covered.values())
    ran = sum(lines * percent for lines, percent in covered.values())
    rows += f"| all of it | {total} | {ran / max(total, 1):.0f} % |\n"
    why = "".join(f"- `{name}`: {reason}\n" for name, reason in sorted(reasons.items()))
    return HEAD.format(enough=ENOUGH) + rows + (f"\n## Under {ENOUGH} %\n\n{why}" if why else "")


def _problems(covered: Mapping[str, tuple[int, float]], reasons: Mapping[str, str]) -> list[str]:
    low = {name for name, (_, percent) in covered.items() if percent < ENOUGH}
    lacking = [f"{name} is under {ENOUGH} % and has no reason in {REASONS.name}" for name in sorted(low - set(reasons))]
    return lacking + [f"{name} needs no reason in {REASONS.name} any more" for name in sorted(set(reasons) - low)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
