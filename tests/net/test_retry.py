"""The kind of failure decides how often a request is sent again, and after which delay."""

from __future__ import annotations

import pytest

from tests.support.model_rig import QUICK
from worker.net.retry import Budget, Retry, RetryReason


def delays(budget: Budget, reason: RetryReason) -> int:
    """Return how many tries are left for a failure of this kind."""
    count = 0
    while budget.delay_s(reason) is not None:
        count += 1
    return count


@pytest.mark.parametrize(
    ("reason", "tries"),
    [
        (RetryReason.NEVER, 0),
        (RetryReason.NOT_FOUND, 2),
        (RetryReason.RATE, 3),
        (RetryReason.SERVER, 5),
        (RetryReason.EXPIRED, 5),
    ],
)
def test_each_kind_of_failure_has_its_tries(reason, tries):
    assert delays(Budget(Retry()), reason) == tries


def test_kinds_are_counted_apart_and_progress_forgets_them():
    budget = Budget(Retry(tries=3))
    assert delays(budget, RetryReason.SERVER) == 2
    assert delays(budget, RetryReason.NOT_FOUND) == 2
    assert budget.delay_s(RetryReason.SERVER) is None
    budget.progressed()
    assert delays(budget, RetryReason.SERVER) == 2


def test_a_delay_grows_to_its_longest_and_is_never_below_half():
    budget = Budget(Retry(tries=20, first_s=1.0, longest_s=8.0))
    found = [budget.delay_s(RetryReason.SERVER) for _ in range(10)]
    for number, delay in enumerate(found):
        assert min(8.0, 2.0**number) / 2 <= delay <= min(8.0, 2.0**number)


def test_a_rate_limit_waits_a_second_at_least():
    assert Budget(Retry(first_s=0.01)).delay_s(RetryReason.RATE) >= 0.5


def test_the_servers_retry_after_is_kept_to_unless_it_is_too_long():
    assert Budget(Retry()).delay_s(RetryReason.SERVER, 7.0) == 7.0
    assert Budget(Retry()).delay_s(RetryReason.SERVER, 60.5) is None


def test_scale_shortens_delays_and_not_timeouts():
    retry = Retry(scale=0.001, not_found_s=(4.0,))
    assert Budget(retry).delay_s(RetryReason.NOT_FOUND) == 0.004
    assert Budget(retry).delay_s(RetryReason.RATE, 7.0) == 0.007
    assert retry.read_s == Retry().read_s


def test_a_limited_policy_has_fewer_tries_and_never_more():
    limited = Retry(tries=6).only(2, not_found=False)
    assert (limited.tries, limited.rate_tries, limited.not_found_s) == (2, 2, ())
    assert Retry(tries=3).only(9, not_found=True).tries == 3
    assert delays(Budget(limited), RetryReason.NOT_FOUND) == 0


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
