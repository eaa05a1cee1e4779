"""What can be seen of a worker from outside: the files under its folder, what its Civitai and ComfyUI were asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.civitai_files import Request

IGNORED = {"output", "temp", "user", ".comfy-worker", "worker.log"}
"""What every job writes, and the worker's own books."""

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Sight:
    """One look at a worker."""

    files: dict[str, Stamp]
    """Path below its folder -> inode, size, time of change."""
    asked: int
    """How many requests its Civitai has seen."""
    generation: int
    """How often its ComfyUI was started."""
    sockets: int
    prompts: int
    histories: int
    """What its ComfyUI was asked since that start."""


def look_at(folders: Iterable[Path]) -> dict[str, Stamp]:
    """Every file but the ignored ones; a folder that is not there is empty."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            if path.is_file() and not IGNORED & set(relative.parts):
                info = path.stat()
                found[str(relative)] = (info.st_ino, info.st_size, info.st_mtime_ns)
    return found


def changes(before: dict[str, Stamp], after: dict[str, Stamp]) -> str:
    """What came and what went, in words."""
    came = [f"+ {_name(name)} ({amount(after[name][1])})" for name in sorted(after) if after[name] != before.get(name)]
    gone = [f"- {_name(name)}" for name in sorted(before) if name not in after]
    return ", ".join(came + gone) or "as before"


def _name(path: str) -> str:
    return "an unfinished file" if path.endswith(".part") else f"`{path}`"


def conversation(requests: list[Request]) -> str:
    """What the sites answered, in the order of their hosts: the status, and of files how much was sent."""
    api = [request for request in requests if request.host == "api" and ("/download/" in request.path or bad(request))]
    storage = [request for request in requests if request.host == "storage"]
    parts = []
    if api:
        parts.append("Civitai: " + counted(str(request.status) for request in api))
    if storage:
        sent = (f"{request.status}" + (f" ({amount(request.sent)})" if request.sent else "") for request in storage)
        parts.append("storage: " + counted(sent))
    return "; ".join(parts)


def bad(request: Request) -> bool:
    """Whether it was refused."""
    return request.status >= 400


def asked_of_comfyui(before: Sight, after: Sight) -> str:
    """What the worker asked of its ComfyUI between two looks, or how that ended."""
    if after.generation != before.generation:
        return "ComfyUI was started again" if after.generation else "ComfyUI has ended"
    if not after.generation:
        return ""
    asked = {
        "prompt": after.prompts - before.prompts,
        "`/history`": after.histories - before.histories,
        "new socket": after.sockets - before.sockets,
    }
    told = ", ".join(f"{number} x {name}" for name, number in asked.items() if number)
    return f"ComfyUI: {told}" if told else "no prompt reached ComfyUI"


def counted(words: Iterable[str]) -> str:
    """The words in their order, neighbours that are the same as one with their number."""
    told: list[tuple[str, int]] = []
    for word in words:
        if told and told[-1][0] == word:
            told[-1] = (word, told[-1][1] + 1)
        else:
            told.append((word, 1))
    return ", ".join(word if number == 1 else f"{number} x {word}" for word, number in told)


def amount(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1000:.1f} kB" if size >= 1000 else f"{size} B"
