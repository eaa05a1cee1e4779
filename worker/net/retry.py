"""How often and how long after a failed request the next one comes. Pure; the clock and the sleeping are elsewhere."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum


class RetryReason(Enum):
    """What kind of second chance a refused request gets."""

    NEVER = "never"
    NOT_FOUND = "not found"
    """Civitai's resolver of storage answers 404 for a moment as well."""
    RATE = "rate limited"
    SERVER = "server or network trouble"
    EXPIRED = "the signed link is old"


@dataclass(frozen=True)
class Retry:
    """The policy. Civitai asks for delays that grow from about 1 s to 30 s (developer.civitai.com/site/guide/errors).

    ``scale`` multiplies every delay but not the timeouts; tests set it near 0.
    """

    tries: int = 6
    """Failures in a row, without a byte in between, that end it."""
    first_s: float = 0.5
    longest_s: float = 30.0
    not_found_s: tuple[float, ...] = (2.0, 8.0)
    rate_tries: int = 4
    longest_retry_after_s: float = 60.0
    """A Retry-After beyond this is an answer, not a pause: a GPU is waiting."""
    connect_s: float = 10.0
    read_s: float = 30.0
    """Without a byte for so long, a transfer counts as stalled."""
    scale: float = 1.0

    def only(self, tries: int, not_found: bool) -> Retry:
        """The same with at most ``tries``, and with or without a second look at what is not found."""
        return replace(
            self,
            tries=min(tries, self.tries),
            rate_tries=min(tries, self.rate_tries),
            not_found_s=self.not_found_s if not_found else (),
        )


class Budget:
    """The failures of one request so far, and the delay before it may be sent again."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._failures: Counter[RetryReason] = Counter()

    def progressed(self) -> None:
        """Bytes came: whatever went wrong before was not permanent."""
        self._failures.clear()

    def delay_s(self, again: RetryReason, retry_after_s: float | None = None) -> float | None:
        """Seconds to wait before the next try, or None when there is none left."""
        retry = self._retry
        if again is RetryReason.NEVER:
            return None
        self._failures[again] += 1
        failures = self._failures[again]
        if again is RetryReason.NOT_FOUND:
            delays = retry.not_found_s
            return delays[failures - 1] * retry.scale if failures <= len(delays) else None
        if failures >= (retry.rate_tries if again is RetryReason.RATE else retry.tries):
            return None
        if retry_after_s is not None:
            return retry_after_s * retry.scale if retry_after_s <= retry.longest_retry_after_s else None
        first = max(1.0, retry.first_s) if again is RetryReason.RATE else retry.first_s
        return float(min(retry.longest_s, first * 2 ** (failures - 1)) * random.uniform(0.5, 1.0) * retry.scale)
