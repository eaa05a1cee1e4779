"""The page of benchmarks: each one's tables, between its markers in docs/benchmarks.md, with the machine they ran on.

    report.publish("warm_job", table, goals, write=options.write)

Each section keeps its goals in a comment beside its table, so that the summary at the top of the page is rebuilt
whichever benchmark ran last. Text outside of the markers is written by hand and left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_GOALS = re.compile(r"<!-- goals (?P<goals>\[.*\]) -->")


@dataclass(frozen=True)
class Goal:
    """One row of the summary: a number to reach, and the one that this run reached.

    ``missed``: the distance to the goal; empty if it was met.
    """

    what: str
    target: str
    measured: str
    peer: str
    missed: str = ""

    def row(self, anchor: str = "") -> str:
        """Return the summary's line; ``anchor`` is the heading under which the page gives the reason."""
        missed = f"[missed](#{anchor})" if anchor else "missed"
        verdict = f"{missed} by {self.missed}" if self.missed else "met"
        return f"| {self.what} | {self.target} | {self.measured} | {self.peer} | {verdict} |"


def over(measured: float, limit: float, unit: str) -> str:
    """Return the excess of ``measured`` over ``limit``, for :attr:`Goal.missed`; empty if there is none."""
    return f"{measured - limit:.2g} {unit}".strip() if measured > limit else ""


def under(measured: float, limit: float) -> str:
    """Return the lack of the ratio ``measured`` below ``limit``; empty if there is none."""
    return f"{limit - measured:.2f}" if measured < limit else ""


def machine() -> str:
    """Describe the machine and its load in one line."""
    cpu = _value("/proc/cpuinfo", "model name")
    memory = int(_value("/proc/meminfo", "MemTotal").partition(" ")[0] or 0)
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({cpu or platform.machine()}), {memory / 2**20:.0f} GiB of memory, no GPU used, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}; load {load:.1f} at the end."
    )


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--write``."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name} as well")
    return parser


def publish(
    section: str, text: str, goals: Sequence[Goal] = (), *, write: bool, page: Path = PAGE, measured: bool = True
) -> None:
    """Print the tables; with ``write``, put them between the section's markers and rebuild the summary.

    ``measured``: the numbers depend on the machine, so it is named with them.
    """
    print(text)
    for goal in goals:
        print(goal.row())
    if not write:
        return
    kept = f"\n\n<!-- goals {json.dumps([asdict(goal) for goal in goals])} -->" if goals else ""
    machine_line = f"_{machine()}_\n\n" if measured else ""
    found = _put(page.read_text(), section, f"{machine_line}{text.strip()}{kept}")
    if "<!-- summary -->" in found:
        found = _put(found, "summary", summary(found))
    page.write_text(found)


def summary(page: str) -> str:
    """Return the table of all goals on the page, in the page's order."""
    rows = ["| what | target | measured | beside a peer, same run | |", "|---|---|---|---|---|"]
    for section in re.findall(r"<!-- /(\w+) -->", page):
        for found in _GOALS.finditer(_between(page, section)):
            rows += [Goal(**goal).row(_anchor(page, section)) for goal in json.loads(found["goals"])]
    return "\n".join(rows)


def _put(page: str, section: str, text: str) -> str:
    start, end = f"<!-- {section} -->", f"<!-- /{section} -->"
    if start not in page or end not in page:
        raise SystemExit(f"the page has no {start} ... {end} to write between")
    return f"{page.partition(start)[0]}{start}\n{text}\n{end}{page.partition(end)[2]}"


def _between(page: str, section: str) -> str:
    return page.partition(f"<!-- {section} -->")[2].partition(f"<!-- /{section} -->")[0]


def _anchor(page: str, section: str) -> str:
    """Return the anchor that GitHub gives the heading above a section."""
    headings: list[str] = re.findall(r"^#+ (.*)$", page.partition(f"<!-- {section} -->")[0], re.MULTILINE)
    return re.sub(r"[^\w\- ]", "", headings[-1].lower()).replace(" ", "-") if headings else ""


def _value(path: str, name: str) -> str:
    """Return a value from a file of ``name : value`` lines; empty if it has none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
