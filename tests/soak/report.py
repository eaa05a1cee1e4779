"""The summary of a soak as a table that is read in a minute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.soak.checks import SLACK, Growth
from tests.soak.soak import Result

SHOWN_VIOLATIONS = 40


def summary(result: Result) -> str:
    """Everything a reader wants to know, violations last."""
    ledger = result.ledger
    took = sorted(each.status.get("executionTime", 0) / 1e3 for each in ledger.endings)
    used = sum(bool(each.surely_in_use and each.places) for each in ledger.endings)
    disk, models = result.largest_disk / 1e6, result.models_bytes / 1e6
    rows = [
        ("seed", result.seed),
        ("time", f"{result.seconds:.0f} s"),
        ("jobs", f"{len(ledger.endings)}: {_counted(each.state for each in ledger.endings)}"),
        ("errors", _counted(each.code for each in ledger.endings if each.code)),
        ("started twice", sum(each.status.get("attempts", 1) > 1 for each in ledger.endings)),
        (
            "job's own time",
            f"median {_at(took, 0.5):.2f} s, 95 % {_at(took, 0.95):.2f} s, longest {_at(took, 1):.2f} s",
        ),
        ("kills", f"{len(ledger.kills)}: {_counted(kill.what for kill in ledger.kills)}"),
        ("downloads", f"{sum(ledger.downloads.values())} of {len(ledger.downloads)} names"),
        ("pruned", f"{len(ledger.removals)} files"),
        ("seen with models in use", f"{used} jobs"),
        ("disk at most", f"{disk:.1f} MB, where all models have {models:.1f} MB"),
        ("processes watched", f"{len({growth.process for growth in result.growths})} lived long enough"),
        *((f"largest growth, {what}", _largest(result.growths, what)) for what in SLACK),
        ("violations", len(result.violations)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join([*lines, *(f"  - {each}" for each in result.violations[:SHOWN_VIOLATIONS])])


def _counted(things: Iterable[str | None]) -> str:
    return ", ".join(f"{count} {thing}" for thing, count in Counter(things).most_common()) or "none"


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _largest(growths: Iterable[Growth], what: str) -> str:
    of_it = [growth for growth in growths if growth.what == what]
    if not of_it:
        return "-"
    most = max(of_it, key=lambda growth: growth.after - growth.before)
    scale, unit = (1 << 20, " MiB") if what == "rss" else (1, "")
    change, slack = (most.after - most.before) / scale, SLACK[what] / scale
    return f"{change:+.1f}{unit} (slack {slack:g}{unit}; {most.process}, from {most.before / scale:.1f}{unit})"
