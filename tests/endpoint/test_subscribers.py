"""A subscriber that is far behind loses its oldest frames only."""

from __future__ import annotations

from endpoint.subscribers import QUEUE_LENGTH, Subscribers


def test_one_who_is_far_behind_loses_the_oldest_only():
    subscribers = Subscribers()
    with subscribers.subscribe("job") as queue:
        for number in range(QUEUE_LENGTH + 5):
            subscribers.publish("job", str(number).encode())
        assert queue.qsize() == QUEUE_LENGTH
        assert queue.get_nowait() == b"5"
    assert not subscribers.has_any("job")
