"""``docs/faults.md``: one row for each fault of the catalogue, with what a run saw of it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from tests.faults.assembled.case import Row
from tests.faults.assembled.catalogue import AREAS, Fault

HEAD = """# Faults

Each row is a fault that `tests/faults/assembled/` causes in the whole worker: `handler.py` with its models, its
ComfyUI (the simulator) and, if the fault involves RunPod, the real SDK's loop. The rows are recorded in a run, not
written by hand. They show what the other side did, the answer, what changed on the disk, and how long the job took and
may take at most. Then a next job runs on the same worker: it downloads a new model, renders, and must return its
picture. No fault lost anything that was there before.

Seen on {machine}.
Waits between two tries of a download are a thousandth of the real ones. This command writes the page:

    .venv/bin/python -m pytest tests/faults/assembled --write-faults docs/faults.md
"""
COLUMNS = ("fault", "what was seen", "answer", "on disk", "time", "next job", "test")
_ROW = re.compile(r"\| (?P<fault>.+?) \| .* \| \[(?P<test>\w+)\]\((?P<path>[^)#]+)\) \|")


def written(rows: dict[str, Row]) -> str:
    """The whole page."""
    parts = [HEAD.format(machine=machine())]
    for area, faults in AREAS.items():
        lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
        lines += [_line(fault, rows[fault.id]) for fault in faults]
        parts.append(f"## {area}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def rows_of(text: str) -> list[tuple[str, str, str, str]]:
    """A page's rows: area, fault, the test's name and its path from the repository's root."""
    found, area = [], ""
    for line in text.splitlines():
        if line.startswith("## "):
            area = line[3:]
        elif match := _ROW.fullmatch(line):
            found.append((area, match["fault"], match["test"], match["path"].removeprefix("../")))
    return found


def machine() -> str:
    """This one, in a few words."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    cpu = names[0] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {cpu}, {platform.system()}, Python {platform.python_version()}"


def _line(fault: Fault, row: Row) -> str:
    test = f"[{row.test}](../{row.path})"
    time = f"{_seconds(row.seconds)} of {fault.within_s:g} s"
    assert row.next_seconds is not None
    cells = [fault.what, row.seen, row.answer, row.disk, time, f"right, {_seconds(row.next_seconds)} s", test]
    return "| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in cells) + " |"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 0.05 else "<0.1"
