"""ComfyUI's `folder_paths` as packs use it: the folders of models, inputs and outputs, and the model files in them."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeAlias

from comfy.cli_args import args
from save_path import get_save_image_path, is_inside

# Packs import it from here.
__all__ = ["get_save_image_path"]

supported_pt_extensions: set[str] = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}

_OWN_BASE = Path(__file__).resolve().parent.parent / ".simulator"
base_path = str(Path(args.base_directory).absolute() if args.base_directory else _OWN_BASE)
models_dir = str(Path(base_path) / "models")

_KINDS = (
    "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models",
    "embeddings", "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "custom_nodes", "hypernetworks",
    "photomaker", "classifiers", "model_patches", "audio_encoders",
)  # fmt: skip
# A kind that is not named here has one folder of its own name, with files of the supported extensions.
_FOLDERS = {
    "text_encoders": ("text_encoders", "clip"),
    "diffusion_models": ("unet", "diffusion_models"),
    "controlnet": ("controlnet", "t2i_adapter"),
}
_EXTENSIONS = {"configs": {".yaml"}, "diffusers": {"folder"}, "classifiers": {""}}

folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {
    kind: (
        [str(Path(models_dir, folder)) for folder in _FOLDERS.get(kind, (kind,))],
        _EXTENSIONS.get(kind, supported_pt_extensions),
    )
    for kind in _KINDS
}
folder_names_and_paths["custom_nodes"] = ([str(Path(base_path) / "custom_nodes")], set())

_directories = {
    "output": str(Path(args.output_directory or Path(base_path, "output")).absolute()),
    "input": str(Path(args.input_directory or Path(base_path, "input")).absolute()),
    # As in ComfyUI, --temp-directory names the parent: the folder itself is emptied at every start.
    "temp": str(Path(args.temp_directory or base_path, "temp").absolute()),
    "user": str(Path(args.user_directory or Path(base_path, "user")).absolute()),
}

# Models that a workflow saves can be loaded again.
for _kind in ("checkpoints", "text_encoders", "vae", "diffusion_models", "loras"):
    _folder = {"text_encoders": "clip"}.get(_kind, _kind)
    folder_names_and_paths[_kind][0].append(str(Path(_directories["output"], _folder)))

_LEGACY = {"unet": "diffusion_models", "clip": "text_encoders"}
_Listing: TypeAlias = tuple[list[str], dict[str, float]]
_listings: dict[str, _Listing] = {}


def map_legacy(folder_name: str) -> str:
    return _LEGACY.get(folder_name, folder_name)


def get_output_directory() -> str:
    return _directories["output"]


def get_temp_directory() -> str:
    return _directories["temp"]


def get_input_directory() -> str:
    return _directories["input"]


def get_user_directory() -> str:
    return _directories["user"]


def get_directory_by_type(type_name: str) -> str | None:
    return _directories[type_name] if type_name in {"output", "temp", "input"} else None


def get_folder_paths(folder_name: str) -> list[str]:
    return list(folder_names_and_paths[map_legacy(folder_name)][0])


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    paths, _ = folder_names_and_paths.setdefault(map_legacy(folder_name), ([], set()))
    if full_folder_path in paths and is_default:
        paths.remove(full_folder_path)
    if full_folder_path not in paths:
        paths.insert(0 if is_default else len(paths), full_folder_path)


def filter_files_extensions(files: Collection[str], extensions: Collection[str]) -> list[str]:
    return sorted(name for name in files if not extensions or Path(name).suffix.lower() in extensions)


def filter_files_content_types(files: Iterable[str], content_types: Collection[str]) -> list[str]:
    known = {"webp": "image", "fbx": "model"}

    def kind(name: str) -> str | None:
        guessed = mimetypes.guess_type(name, strict=False)[0]
        return known.get(name.rsplit(".", 1)[-1]) or (guessed.split("/")[0] if guessed else None)

    return [name for name in files if kind(name) in content_types]


def get_filename_list(folder_name: str) -> list[str]:
    """Return the model files of one kind, relative to their folder; listed again only after a folder changed."""
    folder_name = map_legacy(folder_name)
    listing = _listings.get(folder_name)
    if listing is None or not _is_current(folder_name, listing):
        listing = _listings[folder_name] = _list_files(folder_name)
    return list(listing[0])


def _is_current(folder_name: str, listing: _Listing) -> bool:
    times = listing[1]
    if any(folder not in times and Path(folder).is_dir() for folder in folder_names_and_paths[folder_name][0]):
        return False
    return all(_mtime(folder) == seen for folder, seen in times.items())


def _mtime(folder: str) -> float:
    try:
        return Path(folder).stat().st_mtime
    except OSError:
        return -1.0


def _list_files(folder_name: str) -> _Listing:
    folders, extensions = folder_names_and_paths[folder_name]
    names: set[str] = set()
    times: dict[str, float] = {}
    for root in folders:
        for here, subfolders, files in os.walk(root, followlinks=True):
            subfolders[:] = [name for name in subfolders if name != ".git"]
            times[here] = _mtime(here)
            relative = [os.path.relpath(os.path.join(here, name), root) for name in files]  # noqa: PTH118 - hot, on strings
            names.update(filter_files_extensions(relative, extensions))
    return sorted(names), times


def get_full_path(folder_name: str, filename: str) -> str | None:
    folder_name = map_legacy(folder_name)
    if folder_name not in folder_names_and_paths:
        return None
    inside = os.path.relpath(Path("/", filename), "/")
    candidates = (Path(folder, inside) for folder in folder_names_and_paths[folder_name][0])
    return next((str(path) for path in candidates if path.is_file()), None)


def get_full_path_or_raise(folder_name: str, filename: str) -> str:
    full_path = get_full_path(folder_name, filename)
    if full_path is None:
        raise FileNotFoundError(f"Model in folder '{folder_name}' with filename '{filename}' not found.")
    return full_path


def annotated_filepath(name: str) -> tuple[str, str | None]:
    """Split `picture.png [output]` into the file name and the path of the output folder."""
    for kind in ("output", "input", "temp"):
        if name.endswith(f"[{kind}]"):
            # 3: the brackets and the blank before them.
            return name[: -len(kind) - 3], _directories[kind]
    return name, None


def get_annotated_filepath(name: str, default_dir: str | None = None) -> str:
    name, folder = annotated_filepath(name)
    return os.path.join(folder or default_dir or get_input_directory(), name)  # noqa: PTH118 - keeps `..` as written


def exists_annotated_filepath(name: str) -> bool:
    return Path(get_annotated_filepath(name)).exists()


def prepare_directories() -> None:
    """Make every folder that a user would look for."""
    for folders, _ in folder_names_and_paths.values():
        for folder in folders:
            if is_inside(base_path, folder) and not is_inside(get_output_directory(), folder):
                Path(folder).mkdir(parents=True, exist_ok=True)
    for folder in _directories.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
