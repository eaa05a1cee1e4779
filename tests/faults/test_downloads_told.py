"""What is told of a download while it runs: reports, log lines, and a bar on a terminal."""

from __future__ import annotations

import io
import logging
import sys
import time

from tests.faults.downloading import MiB, add
from tests.support.safetensors_files import safetensors_bytes
from worker.stop import Stop


def test_nothing_to_fetch_is_reported_once(rig):
    reports = []
    assert rig.source.fetch([], Stop(), reports.append) == []
    assert reports == [[]]


def test_progress_is_told_often_enough_but_not_more(server, rig, caplog):
    caplog.set_level(logging.INFO)
    text, file = add(server, safetensors_bytes(3 * MiB))
    file.bytes_per_s = 2.5 * MiB
    reports: list[tuple[float, int]] = []
    rig.fetch(text, report=lambda files: reports.append((time.monotonic(), files[0].bytes)))
    assert 2 <= len(reports) <= 4
    assert reports[-1][1] == 3 * MiB
    assert reports[1][0] - reports[0][0] >= 0.4
    assert "x.safetensors is there: 3.1 MB" in caplog.text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_elsewhere_a_line_now_and_then(server, rig, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("worker.downloads.progress.LOG_EVERY_S", 0.2)
    text, file = add(server, safetensors_bytes(MiB))
    file.bytes_per_s = 2 * MiB
    (done,) = rig.fetch(text)
    assert "of 1.0 MB at" in caplog.text
    done.path.unlink()
    caplog.clear()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    rig.fetch(text)
    assert "models:" in terminal.getvalue()
    assert "1.05M" in terminal.getvalue()
    assert "MB at" not in caplog.text
