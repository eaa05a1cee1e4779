"""The wake-up behind every long poll and every waiting caller: wait for a condition, checked again at each change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class ChangeNotifier:
    """Wakes all waiters at each change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all who wait now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait_for(self, check: Callable[[], T | None], timeout_s: float) -> T | None:
        """Return the first result of ``check`` that is not None: it runs now and at each change. None: timed out."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while (found := check()) is None and (left := deadline - loop.time()) > 0:
            try:
                await asyncio.wait_for(self._event.wait(), left)
            except asyncio.TimeoutError:
                return check()
        return found
