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


@pytest.fixture
def start(tmp_path):
    """Start endpoints on one data folder; ended with everything of them after the test."""
    started = []

    def start_one(*args, **env) -> EndpointProcess:
        started.append(EndpointProcess(tmp_path, *args, name=f"endpoint{len(started)}", **env))
        return started[-1]

    yield start_one
    for endpoint in started:
        endpoint.kill()
