"""Numbers formatted for people."""

from __future__ import annotations


def amount(size: int) -> str:
    """Format a size in bytes as ``6.5 GB``, in the decimal units that the model sites use."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
