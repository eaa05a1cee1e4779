"""A whole worker under test, whichever way it runs: its sites, its folder, its ComfyUI, and a job to show it works."""

from __future__ import annotations

import base64
import io
import itertools
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from tests.faults.assembled.sights import Sight, look_at
from tests.support.civitai_server import CivitaiServer
from tests.support.prompts import image_prompt
from tests.support.safetensors_files import safetensors_bytes

Answer = dict[str, Any]
_numbers = itertools.count(1)


class Subject(ABC):
    """Owns a Civitai, and has one model of its own that every good list names: nothing may take it away.

    Args:
        folder: all that the worker writes lies below it.
        beside: another worker, whose Civitai and whose own model this one uses as well.
    """

    def __init__(self, folder: Path, beside: Subject | None = None) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.civitai = beside.civitai if beside else CivitaiServer()
        self._owns_civitai = beside is None
        self.secrets = [self.civitai.token]
        self.faults: dict[str, Any] = {}
        own = ("own.safetensors", safetensors_bytes(3000, "own"))
        self.own = beside.own if beside else self.line(self.civitai.add_model(*own, type="LORA"))

    @abstractmethod
    def answer(self, fields: Any, **event: Any) -> Answer:
        """The answer of a job; ``{"status": ...}`` of one that RunPod ended without."""

    @property
    @abstractmethod
    def comfyui(self) -> str:
        """Where its ComfyUI listens now."""

    @property
    @abstractmethod
    def generation(self) -> int:
        """Another number after each start of ComfyUI."""

    def close(self) -> None:
        """End everything."""
        if self._owns_civitai:
            self.civitai.close()
            self.civitai.check()

    # ------------------------------------------------------------ faults

    def misbehave(self, **faults: Any) -> None:
        """Put faults of the simulator in force; one with a count has to happen."""
        requests.post(f"{self.comfyui}/simulator/misbehave", json=faults, timeout=10).raise_for_status()
        self.faults = faults

    def heal(self) -> None:
        """No fault any more; one that was put in force while it runs does not outlive ComfyUI."""
        if self.faults and self.generation:
            requests.post(f"{self.comfyui}/simulator/misbehave", json={}, timeout=10).raise_for_status()
        self.faults = {}

    def unspent(self) -> list[str]:
        """The faults that should have happened by now and have not."""
        if not self.faults:
            return []
        current = requests.get(f"{self.comfyui}/simulator/misbehave", timeout=10).json()
        return [name for name in self.faults if current.get(name, {}).get("count", 0) > 0]

    def add(self, name: str, data: bytes, kind: str = "lora", **fields: Any) -> str:
        """A line for a new model; ``fields`` set its faults."""
        types = {"lora": "LORA", "ckpt": "Checkpoint"}
        return self.line(self.civitai.add_model(name, data, type=types[kind], **fields), kind)

    def line(self, version: int, kind: str = "lora") -> str:
        """The line of ``repo_list`` for a version."""
        return f"{kind} https://civitai.com/api/download/models/{version}"

    def file(self, line: str) -> Any:
        """The file behind a line, to switch its faults."""
        return self.civitai.file(int(line.rpartition("/")[2]))

    # ------------------------------------------------------------ looking

    def look(self) -> Sight:
        """What can be seen of it now."""
        generation, counters = self.generation, dict[str, Any](sockets_opened=0, requests={})
        try:
            counters = requests.get(f"{self.comfyui}/simulator/log", timeout=10).json() if generation else counters
        except requests.ConnectionError:  # it is dying or has only just begun
            generation = 0

        def asked(path: str) -> int:
            return sum(number for each, number in counters["requests"].items() if each.startswith(path))

        return Sight(
            files=look_at(self._folders),
            asked=len(self.civitai.requests),
            generation=generation,
            sockets=counters["sockets_opened"],
            prompts=asked("/prompt"),
            histories=asked("/history"),
        )

    def parts(self) -> list[str]:
        """Unfinished files."""
        return [path.name for folder in self._folders for path in folder.rglob("*.part")]

    def is_executing(self) -> bool:
        """Whether its ComfyUI runs a prompt now."""
        return bool(requests.get(f"{self.comfyui}/queue", timeout=10).json()["queue_running"])

    @property
    def _folders(self) -> list[Path]:
        """All that it writes to; the models may lie on a volume."""
        elsewhere = not self.models.is_relative_to(self.folder)
        return [self.folder, *([self.models.parent] if elsewhere else [])]

    # ------------------------------------------------------------ the next job

    def settle(self) -> None:
        """Have it up and with its own model, as it is between two jobs."""
        answer = self.answer({"prompt": image_prompt(next(_numbers)), "repo_list": self.own})
        assert "error" not in answer, answer["error"]

    def next_job(self) -> float:
        """A job that needs everything: a new model, ComfyUI and an answer. Its seconds."""
        number = next(_numbers)
        name, data = f"next{number}.safetensors", safetensors_bytes(2000, f"next {number}")
        line = self.add(name, data)
        started = time.monotonic()
        answer = self.answer({"prompt": image_prompt(number), "repo_list": [self.own, line]})
        seconds = time.monotonic() - started
        assert "error" not in answer, f"the next job failed: {answer['error']}"
        assert shows(answer, number)
        assert (self.models / "loras" / name).read_bytes() == data
        assert self.parts() == []
        return seconds


def picture(answer: Answer) -> Image.Image:
    """The one picture of an answer, decoded."""
    (entry,) = answer["images"]
    data = requests.get(entry["url"], timeout=30).content if "url" in entry else base64.b64decode(entry["b64"])
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.convert("RGB")


def shows(answer: Answer, color: int) -> bool:
    """Whether the one picture of an answer is the one that ``image_prompt`` draws of a colour."""
    return picture(answer).getpixel((5, 5)) == (color >> 16, color >> 8 & 255, color & 255)
