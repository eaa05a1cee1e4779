"""Log lines carry their job's id and no secret, whoever else set up logging."""

from __future__ import annotations

import asyncio
import io
import logging

import pytest

from worker import logs
from worker.settings import Settings

SECRET = "tok-1234567890"


@pytest.fixture
def stderr(monkeypatch):
    """Set up logging as the worker does and return what it writes; leave logging as pytest has it."""
    written, root = io.StringIO(), logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in (None, "handler", "worker")}
    monkeypatch.setattr("sys.stderr", written)
    monkeypatch.setattr(root, "handlers", [])  # set_up closes those that it replaces
    logs.set_up(Settings.from_environ({"HF_TOKEN": SECRET, "LOG_LEVEL": "INFO"}))
    yield written.getvalue
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logs.job_id.set("-")


def test_a_line_has_its_level_job_and_logger(stderr):
    logging.getLogger("worker.x").info("before")
    logs.job_id.set("job-1")
    logging.getLogger("handler").warning("a %s", "b")
    assert stderr().splitlines() == ["INFO    | - | worker.x | before", "WARNING | job-1 | handler | a b"]


def test_a_thread_of_the_job_has_its_id_and_another_task_its_own(stderr):
    async def job(name: str) -> None:
        logs.job_id.set(name)
        await asyncio.to_thread(logging.getLogger("worker.x").info, f"of {name}")

    async def both() -> None:
        await asyncio.gather(job("one"), job("two"))

    asyncio.run(both())
    assert sorted(stderr().splitlines()) == ["INFO    | one | worker.x | of one", "INFO    | two | worker.x | of two"]


def test_a_secret_and_a_librarys_chatter_are_left_out(stderr):
    logging.getLogger("urllib3").info("chatter")
    logging.getLogger("urllib3").warning("sent %s", SECRET)
    logging.getLogger("worker.x").debug("below LOG_LEVEL")
    assert stderr().splitlines() == ["WARNING | - | urllib3 | sent ***"]


def test_handlers_that_another_library_set_up_are_replaced(stderr):
    logging.getLogger().addHandler(logging.StreamHandler())
    logs.set_up(Settings.from_environ({}))
    assert len(logging.getLogger().handlers) == 1
