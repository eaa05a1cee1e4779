"""Retry policy: number of tries and the delay before each. Pure; it neither reads the clock nor sleeps."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum


class RetryReason(Enum):
    """The kind of failure, which decides if and when the request is sent again."""

    NEVER = "never"
    NOT_FOUND = "not found"
    """Civitai's storage resolver may answer 404 for a moment although the file exists."""
    RATE = "rate limited"
    SERVER = "server or network trouble"
    EXPIRED = "the signed link has expired"


@dataclass(frozen=True)
class Retry:
    """The policy. Civitai asks for delays that grow from about 1 s to 30 s (developer.civitai.com/site/guide/errors).

    ``scale`` multiplies every delay but not the timeouts; tests set it near 0.
    """

    tries: int = 6
    """Consecutive failures, without a byte in between, after which the request is given up."""
    first_s: float = 0.5
    longest_s: float = 30.0
    not_found_s: tuple[float, ...] = (2.0, 8.0)
    rate_tries: int = 4
    longest_retry_after_s: float = 60.0
    """A longer Retry-After ends the request: an idle GPU costs money."""
    connect_s: float = 10.0
    read_s: float = 30.0
    """A transfer without a byte for this long counts as stalled."""
    scale: float = 1.0

    def only(self, tries: int, not_found: bool) -> Retry:
        """Return this policy with at most ``tries``; ``not_found=False`` also gives up at the first 404."""
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
        """Forget the failures so far: bytes arrived, so they were not permanent."""
        self._failures.clear()

    def delay_s(self, reason: RetryReason, retry_after_s: float | None = None) -> float | None:
        """Count a failure. Return the seconds to wait before the next try, or None if no try is left."""
        retry = self._retry
        if reason is RetryReason.NEVER:
            return None
        self._failures[reason] += 1
        failures = self._failures[reason]
        if reason is RetryReason.NOT_FOUND:
            delays = retry.not_found_s
            return delays[failures - 1] * retry.scale if failures <= len(delays) else None
        if failures >= (retry.rate_tries if reason is RetryReason.RATE else retry.tries):
            return None
        if retry_after_s is not None:
            return retry_after_s * retry.scale if retry_after_s <= retry.longest_retry_after_s else None
        first = max(1.0, retry.first_s) if reason is RetryReason.RATE else retry.first_s
        return float(min(retry.longest_s, first * 2 ** (failures - 1)) * random.uniform(0.5, 1.0) * retry.scale)
