"""The one flag that stops a running prompt, and the exception that carries it out of a node."""

from __future__ import annotations

import threading

_wanted = threading.Event()


class InterruptProcessingException(Exception):
    """Somebody asked for the running prompt to stop."""


def interrupt_processing(value: bool = True) -> None:
    if value:
        _wanted.set()
    else:
        _wanted.clear()


def throw_if_interrupted() -> None:
    if _wanted.is_set():
        _wanted.clear()
        raise InterruptProcessingException


def wait(seconds: float) -> None:
    """Take that long, but no longer than until somebody interrupts."""
    _wanted.wait(seconds)
    throw_if_interrupted()
