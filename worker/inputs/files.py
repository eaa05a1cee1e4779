"""A job's input files: their folder, their download, and their names in the prompt."""

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
    """Return ComfyUI's input folder on this disk, from its flags; None if ComfyUI runs elsewhere."""
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
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument == flag:
            found = following
        elif argument.startswith(f"{flag}="):
            found = argument.partition("=")[2]
    return found


def rename_inputs(prompt: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return a copy of the prompt with its input files renamed: every input whose value is such a name. Pure."""
    names = {**renamed, **{f"{old} [input]": f"{new} [input]" for old, new in renamed.items()}}
    result = copy.deepcopy(dict(prompt))
    for node in result.values():
        inputs = node["inputs"]
        for name, value in inputs.items():
            if isinstance(value, str) and value in names:
                inputs[name] = names[value]
    return result


class InputFiles:
    """Downloads the jobs' input files into the store of ComfyUI's input folder.

    Args:
        settings: ComfyUI's place and arguments, PRIVATE_HOSTS and INPUT_LIMIT_MB.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @functools.cached_property
    def folder(self) -> InputFolder:
        """ComfyUI's input folder, or a temporary one, to upload from, if ComfyUI's is not on this disk."""
        found = input_folder(self._settings)
        if found is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="comfy-inputs-")
            found = Path(self._scratch.name)
        return InputFolder(found)

    def download(self, files: Sequence[InputFile], stop: Stop) -> Inputs:
        """Put every file into the store. Blocks; for a thread.

        Raises:
            WorkerError: INVALID_INPUT, DOWNLOAD_FAILED, DISK_FULL or TIMEOUT, with the field's name.
            StoppedError: the job was cancelled.
        """
        if not files:
            return []
        remaining = int(self._settings.input_limit_mb * 1e6)
        downloaded = []
        with InputLinks(self._settings.private_hosts, stop) as links:
            for index, file in enumerate(files):
                content = self._download(file, f"files[{index}].url", links, remaining)
                remaining -= content.path.stat().st_size
                if remaining < 0:
                    limit = f"INPUT_LIMIT_MB is {self._settings.input_limit_mb:g}"
                    raise WorkerError(Code.INVALID_INPUT, f"`files` are too large together: {limit}")
                downloaded.append((file.name, content))
        return downloaded

    def _download(self, file: InputFile, field: str, links: InputLinks, limit_bytes: int) -> Content:
        if file.url is None:
            return self.folder.keep(file.data)
        with self.folder.receiving() as part:
            return self.folder.keep_received(part, links.download(file.url, field, part, limit_bytes))

    def close(self) -> None:
        """Delete the temporary folder, if there is one; idempotent."""
        if self._scratch:
            self._scratch.cleanup()
