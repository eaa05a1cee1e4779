"""What was asked of this engine, counted."""

from __future__ import annotations

from collections import Counter


class Counters:
    """What was asked of this engine since it started."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.sockets_opened = 0
        self.prompts_executed = 0
