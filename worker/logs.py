"""Logging setup: one format, with the job's id on each line and secrets redacted."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

from worker.net.redact import RedactingFilter
from worker.settings import Settings

job_id: ContextVar[str] = ContextVar("job_id", default="-")
"""The running job's id; threads started with ``asyncio.to_thread`` inherit it."""


class _JobId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.job_id = job_id.get()
        return True


def set_up(settings: Settings) -> None:
    """Send the worker's log to stderr, replacing the handlers that ``import runpod`` installs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)-7s | %(job_id)s | %(name)s | %(message)s"))
    handler.addFilter(_JobId())
    handler.addFilter(RedactingFilter(settings.secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("handler", "model_manager", "comfy_runner", "worker", "comfyui"):
        logging.getLogger(name).setLevel(settings.log_level)
