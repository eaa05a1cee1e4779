"""A soak of half a minute: real workers, one models folder, kills and cancels. ``make soak`` runs ten minutes."""

from __future__ import annotations

import os

import pytest

from tests.soak.report import summary
from tests.soak.soak import Soak

SECONDS = 20.0


@pytest.mark.timeout(300)  # the drain has deadlines of its own, and says what is stuck
def test_a_short_soak_is_clean(tmp_path):
    seed = int(os.environ.get("SOAK_SEED", "0")) or int.from_bytes(os.urandom(3), "big")
    result = Soak(tmp_path, seconds=SECONDS, seed=seed).run()
    assert not result.violations, f"\n{summary(result)}\n(SOAK_SEED={seed} sends the same jobs again)"
