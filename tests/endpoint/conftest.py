"""Endpoints for tests: a thread with the test as its worker, and one shared process with a real worker."""

from __future__ import annotations

import pytest

from tests.endpoint.support import Clock, EndpointProcess, EndpointThread


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def local(tmp_path, clock):
    """An endpoint whose clock and worker are the test's."""
    with EndpointThread(tmp_path, clock) as found:
        yield found


@pytest.fixture
def client(local):
    return local.client


@pytest.fixture
def worker(local):
    return local.worker()


@pytest.fixture(scope="session")
def live(tmp_path_factory):
    """The real process with the real worker, for tests that leave it as it was."""
    with EndpointProcess(tmp_path_factory.mktemp("live"), "--id", "live") as endpoint:
        endpoint.ready()
        yield endpoint
        endpoint.terminate()
