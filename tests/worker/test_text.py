"""Sizes are shown in the decimal units of the model sites."""

from __future__ import annotations

import pytest

from worker.text import amount


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (2_097_152, "2.1 MB"),
        (6_500_000_000, "6.50 GB"),
        (1_500_000_000_000, "1500.00 GB"),
    ],
)
def test_a_size_is_shown_with_its_unit(size, shown):
    assert amount(size) == shown
