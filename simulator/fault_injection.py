"""The hooks through which the faults of `faults` strike a running prompt, and the process's death of them."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from comfy.model_management import OOM_MESSAGE, OutOfMemoryError, interrupt_current_processing
from faults import faults


class MessageStream(Protocol):
    """The part of the server that a fault needs."""

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None: ...

    def flush(self, timeout: float) -> None: ...


class DropSockets:
    """A marker in the stream of messages: close every socket once all messages before it are sent."""

    def __init__(self, how: str, refuse_s: float) -> None:
        self.how = how
        self.refuse_s = refuse_s


def on_start() -> None:
    if not faults.take("die", at="at_start"):
        return
    lines = (
        "Traceback (most recent call last):",
        '  File "main.py", line 149, in <module>',
        "    import execution",
        "ModuleNotFoundError: No module named 'torchsde'",
    )
    sys.stderr.write("\n".join(lines) + "\n")
    sys.exit(1)


def on_prompt_start(is_running: Callable[[], bool]) -> None:
    after_s = faults.value("interrupt_self_s", 0.0)
    if after_s:
        timer = threading.Timer(after_s, lambda: interrupt_current_processing() if is_running() else None)
        timer.daemon = True
        timer.start()


def on_moment(server: MessageStream, moment: str) -> None:
    setting = faults.peek("drop_socket")
    if setting and "after_frames" not in setting and setting.get("at", "executing") == moment:
        faults.take("drop_socket")
        server.send_sync(DropSockets(setting.get("how", "fin"), float(setting.get("refuse_s", 0))), None)


def on_node(server: MessageStream, class_type: str) -> None:
    """Apply the faults that are due inside a node of that class."""
    if faults.take("die", at="executing"):
        server.flush(1.0)
        die("in the middle of a node")
    stall = faults.take("stall", **{"class": class_type})
    if stall:
        time.sleep(float(stall["s"]))
    out_of_memory = faults.peek("oom")
    if out_of_memory and _class_of(out_of_memory) == class_type:
        faults.take("oom")
        raise OutOfMemoryError(OOM_MESSAGE)
    message = (faults.peek("node_error") or {}).get(class_type)
    if message:
        faults.take("node_error")
        raise RuntimeError(message)


def _class_of(setting: dict[str, Any]) -> str:
    named = setting.get("class", "KSampler")
    return named if isinstance(named, str) else "KSampler"


def on_prompt_end(server: MessageStream) -> None:
    if faults.take("die", at="after"):
        server.flush(1.0)
        die("after a prompt")


def die(when: str) -> NoReturn:
    logging.error("The simulator was told to die %s", when)
    sys.stderr.flush()
    os._exit(1)
