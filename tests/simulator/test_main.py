"""The simulator as a process: its log, and its end by signals."""

from __future__ import annotations

import signal

from tests.support.simulator_process import Engine


def test_it_says_in_its_log_what_it_is_and_which_flags_it_ignores() -> None:
    with Engine("--highvram", "--use-sage-attention") as engine:
        text = engine.log_text()
    assert "This is the simulator, not ComfyUI" in text
    assert "The simulator ignores: --highvram --use-sage-attention" in text
    assert f"To see the GUI go to: {engine.url}" in text


def test_it_ends_cleanly_on_sigterm_and_sigint() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with Engine() as engine, engine.client():
            engine.process.send_signal(number)
            assert engine.process.wait(5) == 0
            assert "Traceback" not in engine.log_text()
