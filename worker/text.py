"""Numbers as people read them."""

from __future__ import annotations


def amount(size: int) -> str:
    """Bytes for people: ``6.5 GB``, decimal units as the sites show them."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
