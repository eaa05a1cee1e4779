"""Progress where no platform takes it: drawn on a terminal, and nothing at all elsewhere."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from worker.runpod_sdk import progress_sender
from worker.runpod_sdk.progress_sender import ProgressSender


class Bar:
    """In place of tqdm's: what was drawn."""

    drawn: ClassVar[list] = []

    def __init__(self, **_):
        self.n = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def set_description_str(self, text):
        self.drawn.append((text, self.n))


@pytest.mark.parametrize(("terminal", "drawn"), [(True, [("ComfyUI has begun", 0.0), ("K 1/2", 50.0)]), (False, [])])
def test_a_local_run_draws_its_steps_on_a_terminal_only(monkeypatch, terminal, drawn):
    monkeypatch.setattr(Bar, "drawn", [])
    monkeypatch.setattr(progress_sender, "tqdm", Bar)
    monkeypatch.setattr(progress_sender, "DRAW_EVERY_S", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    state = {"3": {"state": "running", "value": 1, "max": 2}}

    async def run():
        sender = ProgressSender("id", {"3": {"class_type": "K", "inputs": {"steps": 2}}}, environ={})
        async with sender as progress:
            progress.on_event({"type": "execution_start", "data": {}})
            await _turns()
            progress.on_event({"type": "progress_state", "data": {"nodes": state}})
            progress.on_event({"type": "progress", "data": {"node": "3", "value": 1, "max": 2}})
            await _turns()

    asyncio.run(run())
    assert Bar.drawn == drawn


async def _turns():
    for _ in range(10):
        await asyncio.sleep(0)
