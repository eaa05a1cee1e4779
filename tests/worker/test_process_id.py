"""Who wrote a file is read off its name, and whether that process still lives, with and without /proc."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from worker.process_id import PATTERN, is_gone, is_of_this_host, process_id


def read(name: str) -> re.Match[str]:
    found = re.fullmatch(PATTERN, name)
    assert found
    return found


def ended_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.fixture(params=["with /proc", "without /proc"])
def proc(request, monkeypatch):
    if request.param == "without /proc":

        def no_proc(self, *args, **more):
            raise FileNotFoundError(self)

        monkeypatch.setattr(Path, "read_text", no_proc)
    return request.param


def test_this_process_is_of_this_host_and_lives(proc):
    found = read(process_id())
    assert int(found["pid"]) == os.getpid()
    assert is_of_this_host(found)
    assert not is_gone(found)


def test_an_ended_process_is_gone_and_a_pid_that_cannot_be_as_well(proc):
    host = read(process_id())["host"]
    assert is_gone(read(f"{host}-{ended_pid()}-12345"))
    assert is_gone(read(f"{host}-{10**30}-0"))


def test_a_pid_that_was_given_out_again_is_another_process():
    found = read(process_id())
    assert is_gone(read(f"{found['host']}-{found['pid']}-{int(found['start']) + 1}"))
    assert not is_gone(read(f"{found['host']}-{found['pid']}-0")), "a start that nobody knew proves nothing"


def test_a_process_that_may_not_be_asked_lives(monkeypatch):
    def forbidden(pid, signal):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "nonsense")
    monkeypatch.setattr(os, "kill", forbidden)
    assert not is_gone(read("host-1-0"))


def test_another_host_is_told_apart():
    found = read(process_id())
    assert not is_of_this_host(read(f"{found['host']}x-{found['pid']}-{found['start']}"))
