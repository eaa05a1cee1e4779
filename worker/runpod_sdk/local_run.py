"""Local runs (``make run``, ``--test_input``): save the pictures to a folder, because no client receives the answer."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

RESULTS = Path("results")

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def is_local() -> bool:
    """Return True if the SDK will run one job here and exit; its own rule (1.12: ``worker._is_local``)."""
    if any(arg.startswith("--rp_serve_api") for arg in sys.argv):
        return False  # the SDK answers over HTTP: the caller gets the pictures
    return any(arg.startswith("--test_input") for arg in sys.argv) or "RUNPOD_WEBHOOK_GET_JOB" not in os.environ


def saving_results(handler: Handler) -> Handler:
    """Wrap the handler to save its files into :data:`RESULTS`, and to drop their base64 from the printed answer."""

    async def handle(event: dict[str, Any]) -> dict[str, Any]:
        answer = await handler(event)
        for entry in [*(answer.get("images") or ()), *(answer.get("files") or ())]:
            _save(entry, RESULTS)
        return answer

    return handle


def _save(entry: dict[str, Any], folder: Path) -> None:
    key = "b64" if "b64" in entry else "data"
    if "url" in entry or entry["type"] == "s3_url":
        return  # it is in the bucket
    folder.mkdir(parents=True, exist_ok=True)
    path = _free_name(folder, Path(entry["filename"]).name)
    path.write_bytes(base64.b64decode(entry[key]))
    print(f"Saved {path}", file=sys.stderr)  # noqa: T201 - for the person who started it
    entry[key] = f"(in {path})"


def _free_name(folder: Path, name: str) -> Path:
    """Return a path that does not exist yet, so that no file is overwritten."""
    path, count = folder / name, 1
    while path.exists():
        count += 1
        path = folder / f"{Path(name).stem} ({count}){Path(name).suffix}"
    return path
