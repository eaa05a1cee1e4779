from __future__ import annotations

import time

from tests.support.model_rig import QUICK
from worker.net.answers import HttpAnswer
from worker.net.retry import Budget, Retry, RetryReason


def test_the_delays_are_those_the_site_asks_for():
    budget = Budget(Retry())
    assert [budget.delay_s(RetryReason.NOT_FOUND) for _ in range(3)] == [2.0, 8.0, None]
    delays = [budget.delay_s(RetryReason.SERVER) for _ in range(6)]
    assert delays[-1] is None
    assert all(0.5 * 0.5 * 2**n <= delay <= 0.5 * 2**n for n, delay in enumerate(delays[:-1]))
    budget.progressed()
    assert [budget.delay_s(RetryReason.RATE, 5.0) for _ in range(4)] == [5.0, 5.0, 5.0, None]
    assert Budget(Retry()).delay_s(RetryReason.RATE, 61.0) is None
    assert Budget(Retry()).delay_s(RetryReason.NEVER) is None
    assert Budget(QUICK).delay_s(RetryReason.NOT_FOUND) == 0.002


def test_retry_after_is_read_as_seconds_and_as_a_date():
    assert HttpAnswer(429, {"Retry-After": "12"}).retry_after_s == 12
    assert HttpAnswer(429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}).retry_after_s == 0
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 55 < HttpAnswer(429, {"Retry-After": later}).retry_after_s <= 60
    assert HttpAnswer(429, {"Retry-After": "soon"}).retry_after_s is None
    assert HttpAnswer(429).retry_after_s is None
