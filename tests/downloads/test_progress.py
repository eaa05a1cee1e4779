"""Progress of the downloads: reports, log lines, and a bar on a terminal."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import pytest

from worker.downloads.progress import DownloadProgress
from worker.sites.types import FileProgress

MB = 1_000_000


@pytest.fixture
def clock(monkeypatch):
    """The time that the progress reads; a test sets its ``now``."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("worker.downloads.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_there_are_two_reports_a_second_and_one_at_the_end(clock):
    reports: list[tuple[float, int]] = []
    progress = DownloadProgress(lambda files: reports.append((clock.now, files[0].bytes)))
    for tick in range(1, 18):
        clock.now = tick / 8
        progress.update([FileProgress("x.safetensors", tick, 17)])
    progress.finish([FileProgress("x.safetensors", 17, 17)])
    assert reports == [(0.5, 4), (1.0, 8), (1.5, 12), (2.0, 16), (2.125, 17)]


def test_without_a_terminal_there_is_a_log_line_every_five_seconds(clock, caplog):
    caplog.set_level(logging.INFO)
    progress = DownloadProgress(lambda files: None)
    for second in range(1, 13):
        clock.now = float(second)
        progress.update(
            [FileProgress("x", second * MB, 20 * MB), FileProgress("y", MB, MB), FileProgress("z", 0, None)]
        )
    assert [record.getMessage() for record in caplog.records] == [
        "models: 6.0 MB of 21.0 MB at 1.2 MB/s, 1 of 3 files",
        "models: 11.0 MB of 21.0 MB at 1.0 MB/s, 1 of 3 files",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_no_log_line(clock, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    progress = DownloadProgress(lambda files: None)
    clock.now = 60.0
    progress.update([FileProgress("x", MB, 2 * MB)])
    assert "models:" in terminal.getvalue()
    assert "1.00M/2.00M" in terminal.getvalue()
    progress.finish([FileProgress("x", 2 * MB, 2 * MB)])
    assert terminal.getvalue().endswith("\r"), "the bar is removed"
    assert caplog.text == ""
