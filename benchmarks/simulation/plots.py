"""Pictures of the sweeps for docs/pictures: light background, axes from zero or logarithmic and said to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from benchmarks.simulation.sweeps import Row

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's, which colour-blind readers tell apart."""
MARKS = "osD^"


def lines(
    into: Path,
    rows: list[Row],
    title: str,
    x_label: str,
    *,
    group: Callable[[Row], str],
    x: Callable[[Row], float],
    scale: str = "log",
    wait_scale: str = "linear",
) -> None:
    """Draw two panels over the same x: the cost of 1,000 pictures, and the longest wait of 19 of 20 callers."""
    mpl.rcParams.update({"svg.hashsalt": "fixed", "font.size": 10, "svg.fonttype": "none"})
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    for panel, label, value in (
        (panels[0], "USD for 1,000 pictures", lambda row: row.per_thousand),
        (panels[1], "wait, 95th percentile, seconds", lambda row: row.p95_s),
    ):
        for number, name in enumerate(dict.fromkeys(group(row) for row in rows)):
            these = [row for row in rows if group(row) == name]
            panel.plot(
                [x(row) for row in these], [value(row) for row in these],
                color=COLOURS[number], marker=MARKS[number], markersize=4, label=name,
            )  # fmt: skip
        panel.set(xlabel=x_label, ylabel=label)
        if scale == "log":
            panel.set_xscale("log")
            ticks = sorted({x(row) for row in rows})
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
        if panel is panels[1] and wait_scale == "log":
            panel.set_yscale("log")
            for axis in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
                axis(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "125" else "")
            panel.set_ylabel(f"{label} (logarithmic)")
        else:
            panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    into.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(into, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
