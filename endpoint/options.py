"""The command line as one frozen object."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DESCRIPTION = """\
The RunPod API on this one machine, in front of the same worker: a Pod, a GPU box at home, a laptop with the simulator.
It is for one machine, and does not scale beyond its workers; for more, RunPod serverless is the engine.
Jobs survive a restart (SQLite in the data folder). Plain HTTP: put TLS in front of it before you open it to a network.
The key is RUNPOD_API_KEY; unset, one is made, shown once and kept in the data folder. The worker's own settings
(COMFYUI_PATH, CIVITAI_TOKEN, ...) are read from the environment as on RunPod.
"""


@dataclass(frozen=True)
class Options:
    """The parsed command line. Durations in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    endpoint_id: str = "local"
    workers: int = 1
    data_dir: Path = Path(".endpoint")
    execution_timeout_s: float = 600.0
    max_attempts: int = 2
    max_queue: int = 1000
    grace_s: float = 30.0
    webhook_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()


def parse_options(argv: Sequence[str] | None = None) -> Options:
    """Parse the command line; a bad one ends the process with a message, as argparse does."""
    default = Options()
    parser = argparse.ArgumentParser(
        prog="python -m endpoint", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--host", default=default.host, help="address callers connect to (%(default)s: only this machine)")
    add("--port", type=_whole(0, 65535), default=default.port, help="0 takes a free one (%(default)s)")
    add("--id", dest="endpoint_id", type=_endpoint_id, default=default.endpoint_id, help="as in /v2/<id> (%(default)s)")
    add("--workers", type=_whole(1, 64), default=default.workers, help="worker processes, each with a ComfyUI (1)")
    add("--data-dir", type=Path, default=default.data_dir, help="jobs and the key (%(default)s)")
    add("--execution-timeout", dest="execution_timeout_s", type=_whole(5, 604800), default=600, metavar="S",
        help="for jobs whose policy names none (%(default)s s)")  # fmt: skip
    add("--max-attempts", type=_whole(1, 10), default=default.max_attempts,
        help="how often a job is started at most when its worker ends without an answer (%(default)s)")  # fmt: skip
    add("--max-queue", type=_whole(1, 100_000), default=default.max_queue, help="waiting jobs before 429 (%(default)s)")
    add("--grace", dest="grace_s", type=_whole(0, 604800), default=30, metavar="S",
        help="how long a running job may take to finish when the endpoint is stopped (%(default)s s)")  # fmt: skip
    add("--webhook-host", dest="webhook_hosts", action="append", default=[], metavar="HOST[:PORT]",
        help="a host that a job's webhook may name; none by default; may be given again")  # fmt: skip
    add("--cors-origin", dest="cors_origins", action="append", default=[], metavar="ORIGIN",
        help="an origin whose pages may call this; none by default; may be given again")  # fmt: skip
    given = vars(parser.parse_args(argv)).items()
    found: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given}
    return Options(**found)


def _endpoint_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise argparse.ArgumentTypeError("may hold letters, digits, - and _ only")
    return text


class _whole:  # noqa: N801 - used like a function
    """An argparse type: a whole number within bounds."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        number = int(text)
        if not self._low <= number <= self._high:
            raise argparse.ArgumentTypeError(f"must be from {self._low} to {self._high}")
        return number

    __name__ = "whole number"
