"""A job's input files on the disk, where ComfyUI's loaders find them: by content, once, and never over anybody's file.

Each content lies once in a hidden store inside ComfyUI's input folder; the names that jobs gave it are links to it. So
what is ours is known without a list: a name is ours when it links to the store. Past the budget the contents that were
used longest ago go, with their names.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.errors import Code, WorkerError
from worker.inputs.folder import Content, InputFolder, Inputs
from worker.inputs.links import InputLinks
from worker.job import InputFile
from worker.settings import SIMULATOR_PATH, Settings, simulator_home
from worker.stop import Stop


def input_folder(settings: Settings) -> Path | None:
    """ComfyUI's input folder on this disk, by its flags; None when it runs elsewhere."""
    if settings.comfyui_url:
        return None
    arguments = settings.comfyui_args
    if named := _last_value(arguments, "--input-directory"):
        return settings.comfyui_path / named
    if base := _last_value(arguments, "--base-directory"):
        return settings.comfyui_path / base / "input"
    home = simulator_home() if settings.comfyui_path == SIMULATOR_PATH else settings.comfyui_path
    return home / "input"


def _last_value(arguments: Sequence[str], flag: str) -> str | None:
    found = None
    for here, after in zip(arguments, [*arguments[1:], ""], strict=False):
        if here == flag:
            found = after
        elif here.startswith(f"{flag}="):
            found = here.partition("=")[2]
    return found


def rename_inputs(prompt: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """The prompt with other names for its input files, wherever an input is just such a name. Pure."""
    names = {**renamed, **{f"{asked} [input]": f"{actual} [input]" for asked, actual in renamed.items()}}
    result = copy.deepcopy(dict(prompt))
    for node in result.values():
        inputs = node["inputs"]
        for name, value in inputs.items():
            if isinstance(value, str) and value in names:
                inputs[name] = names[value]
    return result


class InputFiles:
    """The inputs of this worker's jobs: brought from wherever they are, and put where ComfyUI looks.

    Args:
        settings: where ComfyUI is, and what a job may bring.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @functools.cached_property
    def folder(self) -> InputFolder:
        """ComfyUI's input folder; where that is not on this disk, one of ours, from which files are handed on."""
        found = input_folder(self._settings)
        if found is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="comfy-inputs-")
            found = Path(self._scratch.name)
        return InputFolder(found)

    def download(self, files: Sequence[InputFile], stop: Stop) -> Inputs:
        """Have every file's bytes on this disk. Blocks; for a thread.

        Raises:
            WorkerError: INVALID_INPUT, DOWNLOAD_FAILED, DISK_FULL or TIMEOUT, with the field's name.
            Stopped: the job was cancelled.
        """
        if not files:
            return []
        left = int(self._settings.input_limit_mb * 1e6)
        downloaded = []
        with InputLinks(self._settings.private_hosts, stop) as links:
            for index, file in enumerate(files):
                content = self._download(file, f"files[{index}].url", links, left)
                left -= content.path.stat().st_size
                if left < 0:
                    limit = f"INPUT_LIMIT_MB is {self._settings.input_limit_mb:g}"
                    raise WorkerError(Code.INVALID_INPUT, f"`files` are too large together: {limit}")
                downloaded.append((file.name, content))
        return downloaded

    def _download(self, file: InputFile, field: str, links: InputLinks, left: int) -> Content:
        if file.url is None:
            return self.folder.keep(file.data)
        with self.folder.receiving() as part:
            return self.folder.keep_received(part, links.fetch(file.url, field, part, left))

    def close(self) -> None:
        """Delete what was only kept to be handed on; idempotent."""
        if self._scratch:
            self._scratch.cleanup()
