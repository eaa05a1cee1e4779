"""ComfyUI's `comfy.model_management` without models: the interrupt flag, and the error of a full graphics card."""

from __future__ import annotations

import threading

_interrupted = threading.Event()
OOM_MESSAGE = "Allocation on device "


class OutOfMemoryError(RuntimeError):
    """Torch's error for a full card."""


OutOfMemoryError.__module__ = "torch"


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    """Carries an interrupt out of a node."""


def interrupt_current_processing(value: bool = True) -> None:
    if value:
        _interrupted.set()
    else:
        _interrupted.clear()


def throw_exception_if_processing_interrupted() -> None:
    if _interrupted.is_set():
        _interrupted.clear()
        raise InterruptProcessingException


def wait(seconds: float) -> None:
    """Sleep that long, or raise as soon as the prompt is interrupted."""
    _interrupted.wait(seconds)
    throw_exception_if_processing_interrupted()
