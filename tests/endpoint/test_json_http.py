"""Bodies within a limit: the rest of a longer one is read, up to a bound, and not kept."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from endpoint.json_http import DRAIN_FACTOR, read_limited


@pytest.mark.parametrize(
    ("sent", "body", "read"),
    [(9, b"x" * 9, 9), (10, b"x" * 10, 10), (11, None, 11), (10**6, None, 10 * DRAIN_FACTOR + 1)],
)
def test_a_body_over_the_limit_is_none_and_read_on_only_to_a_bound(sent, body, read):
    count = 0

    async def chunks():
        nonlocal count
        for _ in range(sent):
            count += 1
            yield b"x"

    request = SimpleNamespace(content=SimpleNamespace(iter_any=chunks))
    assert (asyncio.run(read_limited(request, 10)), count) == (body, read)
