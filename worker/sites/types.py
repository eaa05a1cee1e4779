"""Types that links, downloads, the inventory and the plan share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from worker.stop import Stop

TYPE_FOLDERS = {
    "ckpt": "checkpoints",
    "checkpoint": "checkpoints",
    "lora": "loras",
    "vae": "vae",
    "unet": "diffusion_models",
    "diffusion": "diffusion_models",
    "emb": "embeddings",
    "embedding": "embeddings",
    "cnet": "controlnet",
    "controlnet": "controlnet",
    "upscale": "upscale_models",
    "clip": "text_encoders",
    "clipvision": "clip_vision",
}
"""The word before a link in ``repo_list`` -> the folder under ``models/`` that ComfyUI's loaders look in."""

MANAGED_FOLDERS = tuple(dict.fromkeys(TYPE_FOLDERS.values()))
"""The only folders in which this worker writes or deletes."""

MODEL_EXTENSIONS = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf")
"""Extensions of the files that ComfyUI (or its GGUF nodes) lists as models; lower case."""


@dataclass(frozen=True)
class RepoLine:
    """One model line of a ``repo_list``, parsed but not yet looked up."""

    number: int
    """1-based, for messages."""
    text: str
    """The line as written, its token removed, for messages."""
    key: str
    """Type, link and ``as`` name in one canonical, token-free spelling: lines of equal key mean the same file."""
    site: str
    """``civitai``, ``hf`` or ``http`` (a host that MODEL_HOSTS allows)."""
    url: str
    """The link, normalised to https and its main host, without any token."""
    folder: str | None
    """Folder of the line's type word; None when the model's metadata decides."""
    filename: str | None
    """The name after ``as``."""
    token: str | None = field(default=None, repr=False)
    """A ``token=`` pasted into the link: used for this line only, as a header only, never shown."""


@dataclass(frozen=True)
class ModelFile:
    """One file of one model, looked up: its identity, its names, and what its bytes are checked against."""

    identity: str
    """``civitai:<version>:<file>``, ``hf:<repo>@<revision>:<path>`` or ``http:<url>``: unique, as names are not."""
    folder: str
    filename: str
    """The name that the site publishes (or ``as``), made safe as one path component."""
    url: str
    """Start of the download; redirects follow from here. Contains no token."""
    line: RepoLine
    size: int | None = None
    """Bytes as the site publishes them, which may be wrong; None when it does not."""
    sha256: str | None = None
    """Lower-case hex as the site publishes it; None when it does not."""
    aliases: tuple[str, ...] = ()
    """Other names a prompt may use for this file."""
    published: bool = True
    """False when the site gave no metadata: size and hash may then be unknown until the download begins."""


@dataclass(frozen=True)
class Download:
    """One file to download, and the final path at which it appears whole or not at all."""

    file: ModelFile
    path: Path


@dataclass(frozen=True)
class FileProgress:
    """Progress of one download, in bytes; ``total`` is None until the server has given it."""

    name: str
    bytes: int
    total: int | None


@dataclass(frozen=True)
class Downloaded:
    """A verified file at its final path."""

    file: ModelFile
    path: Path
    size: int
    sha256: str
    """Of the bytes on disk."""


Report = Callable[[Sequence[FileProgress]], None]


class ModelSource(Protocol):
    """The source of models: all that the model manager uses of the sites."""

    def resolve(self, lines: Sequence[RepoLine], stop: Stop) -> list[ModelFile]:
        """Look each line up, in order. Raise WorkerError for the first that cannot be, with its line quoted."""

    def fetch(self, downloads: Sequence[Download], stop: Stop, report: Report) -> list[Downloaded]:
        """Download every file, verified, atomically. Raise WorkerError; files finished before it stay."""
