"""The nouns that links, downloads, the inventory and the plan share."""

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
"""The only folders in which this worker ever writes or deletes."""

MODEL_EXTENSIONS = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf")
"""How the name of a file ends that ComfyUI (or its GGUF nodes) lists as a model; lower case."""


@dataclass(frozen=True)
class RepoLine:
    """One model line of a ``repo_list``, read but not yet looked up.

    ``key`` is the request in one canonical, token-free spelling (type, link, ``as`` name): two lines of equal key ask
    for the same file, in this job or in a later one.
    """

    number: int
    """1-based, for messages."""
    text: str
    """The line as written, its token removed, for messages."""
    key: str
    site: str
    """``civitai``, ``hf`` or ``http`` (a host that MODEL_HOSTS allows)."""
    url: str
    """The link, normalised to https and its main host, without any token."""
    folder: str | None
    """Folder of the line's type word; None when the model's metadata must tell."""
    filename: str | None
    """What ``as`` asked for."""
    token: str | None = field(default=None, repr=False)
    """A ``token=`` pasted into the link: used for this line only, as a header only, never shown."""


@dataclass(frozen=True)
class ModelFile:
    """One file of one model, looked up: what it is, what it is called and how to know it is right."""

    identity: str
    """``civitai:<version>:<file>``, ``hf:<repo>@<revision>:<path>`` or ``http:<url>``: unique, as names are not."""
    folder: str
    filename: str
    """Canonical name: what the site publishes (or ``as``), sanitised, one path component."""
    url: str
    """Where to start the download; redirects follow from here. Holds no token."""
    line: RepoLine
    size: int | None = None
    """Exact bytes when the site says so."""
    sha256: str | None = None
    """Lower-case hex when the site publishes it."""
    aliases: tuple[str, ...] = ()
    """Other names a prompt may use for this file."""
    published: bool = True
    """False when the site gave no metadata: size and hash are then unknown until the download answers."""


@dataclass(frozen=True)
class Download:
    """One file to bring, and the final path at which it must appear, whole or not at all."""

    file: ModelFile
    path: Path


@dataclass(frozen=True)
class FileProgress:
    """How far one download is, in bytes; ``total`` is None until the server has said."""

    name: str
    bytes: int
    total: int | None


@dataclass(frozen=True)
class Downloaded:
    """A download that is verified and at its final path."""

    file: ModelFile
    path: Path
    size: int
    sha256: str
    """Of the bytes on disk."""


Report = Callable[[Sequence[FileProgress]], None]


class ModelSource(Protocol):
    """Where models come from; the model manager knows no more about the sites than this."""

    def resolve(self, lines: Sequence[RepoLine], stop: Stop) -> list[ModelFile]:
        """Look each line up, in order. Raises WorkerError for the first that cannot be, with its line quoted."""

    def fetch(self, downloads: Sequence[Download], stop: Stop, report: Report) -> list[Downloaded]:
        """Bring every file, verified, atomically. Raises WorkerError; what was finished before stays."""
