"""Progress of the downloads: reports to the job, a bar on a terminal, a log line elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from tqdm import tqdm

from worker.sites.types import FileProgress, Report
from worker.text import amount

REPORT_EVERY_S = 0.5
LOG_EVERY_S = 5.0

log = logging.getLogger(__name__)


class DownloadProgress:
    """The downloads' reports, at most two a second, with a bar on a terminal and a log line every 5 s elsewhere."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._reported = self._logged = time.monotonic()
        self._last = 0
        self._bar: tqdm[NoReturn] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(unit="B", unit_scale=True, unit_divisor=1000, desc="models", leave=False)

    def update(self, files: Sequence[FileProgress]) -> None:
        """Draw the bar; report and log when the last time is long enough ago."""
        now = time.monotonic()
        if self._bar is not None:
            self._draw(self._bar, files)
        if now - self._reported >= REPORT_EVERY_S:
            self._reported = now
            self._report(files)
        if self._bar is None and now - self._logged >= LOG_EVERY_S:
            self._log(files, now - self._logged)
            self._logged = now

    def close_bar(self) -> None:
        """Remove the bar from the terminal; idempotent."""
        if self._bar is not None:
            self._bar.close()

    def finish(self, files: Sequence[FileProgress]) -> None:
        """Remove the bar and send the last report."""
        self.close_bar()
        self._report(files)

    def _draw(self, bar: tqdm[NoReturn], files: Sequence[FileProgress]) -> None:
        bar.total = sum(file.total or file.bytes for file in files)
        bar.n = sum(file.bytes for file in files)
        bar.refresh()

    def _log(self, files: Sequence[FileProgress], seconds: float) -> None:
        done = sum(file.bytes for file in files)
        total = sum(file.total or file.bytes for file in files)
        finished = sum(file.total == file.bytes for file in files)
        speed = amount(int(max(0, done - self._last) / seconds))
        self._last = done
        log.info("models: %s of %s at %s/s, %d of %d files", amount(done), amount(total), speed, finished, len(files))
