"""Waiting for a condition: it is checked at once, at every change, and once more when the time is over."""

from __future__ import annotations

import asyncio

from endpoint.notifier import ChangeNotifier


def test_all_waiters_are_woken_by_one_change():
    async def run() -> list[str | None]:
        notifier, values = ChangeNotifier(), []
        waiters = [asyncio.create_task(notifier.wait_for(lambda: values[0] if values else None, 5)) for _ in range(2)]
        await asyncio.sleep(0)
        values.append("here")
        notifier.notify()
        return await asyncio.gather(*waiters)

    assert asyncio.run(run()) == ["here", "here"]


def test_a_change_that_meets_no_condition_keeps_waiting_and_the_end_of_the_time_is_none():
    async def run() -> tuple[str | None, int]:
        notifier, checks = ChangeNotifier(), []
        waiter = asyncio.create_task(notifier.wait_for(lambda: checks.append(1), 0.05))
        await asyncio.sleep(0)
        notifier.notify()
        return await waiter, len(checks)

    assert asyncio.run(run()) == (None, 3), "at once, at the change, at the end"
