"""Waiting for something to change: what every long poll and every waiting caller stands on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Signal:
    """Wakes everyone who waits, as often as it is given."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        """Wake those who wait now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def until(self, look: Callable[[], T | None], patience_s: float) -> T | None:
        """What ``look`` finds, tried now and after every signal; None when the patience is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while (found := look()) is None and (left := deadline - loop.time()) > 0:
            try:
                await asyncio.wait_for(self._event.wait(), left)
            except asyncio.TimeoutError:
                return look()
        return found
