"""All node classes by name, the simulator's own and those of custom-node packs, as in ComfyUI's `nodes`."""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import folder_paths
from comfy.model_management import interrupt_current_processing as interrupt_processing
from comfy.model_management import throw_exception_if_processing_interrupted as before_node_execution
from comfy_extras import (
    nodes_animation,
    nodes_diffusion,
    nodes_files,
    nodes_images,
    nodes_latent,
    nodes_loaders,
    nodes_mask,
    nodes_samplers,
)
from comfy_extras.nodes_images import MAX_RESOLUTION

__all__ = ["MAX_RESOLUTION", "before_node_execution", "interrupt_processing"]

_BUILTIN = (
    nodes_images,
    nodes_mask,
    nodes_files,
    nodes_animation,
    nodes_latent,
    nodes_loaders,
    nodes_samplers,
    nodes_diffusion,
)

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
EXTENSION_WEB_DIRS: dict[str, str] = {}
LOADED_MODULE_DIRS: dict[str, str] = {}


def _add_built_in_nodes(module: ModuleType) -> None:
    """Add each public class with a FUNCTION that the module defines, under its own name."""
    for name, kind in vars(module).items():
        if hasattr(kind, "FUNCTION") and kind.__module__ == module.__name__ and not name.startswith("_"):
            NODE_CLASS_MAPPINGS[name] = kind
            if hasattr(kind, "DISPLAY_NAME"):
                NODE_DISPLAY_NAME_MAPPINGS[name] = kind.DISPLAY_NAME


for _module in _BUILTIN:
    _add_built_in_nodes(_module)


def init_external_custom_nodes() -> None:
    """Load every pack; one that fails is logged and left out."""
    times = []
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
            if not _is_pack(path):
                continue
            started = time.perf_counter()
            loaded = load_custom_node(path)
            note = "" if loaded else " (IMPORT FAILED)"
            times.append(f"{time.perf_counter() - started:6.1f} seconds{note}: {path}")
    if times:
        logging.info("\nImport times for custom nodes:\n%s\n", "\n".join(times))


def _is_pack(path: Path) -> bool:
    if path.name.endswith(".disabled") or path.name.startswith((".", "__")):
        return False
    return path.is_dir() or path.suffix == ".py"


def load_custom_node(path: Path) -> bool:
    try:
        module = _import(path)
        mappings = getattr(module, "NODE_CLASS_MAPPINGS", None)
        _register_web_folder(path, module)
        if mappings is None:
            logging.warning("Skip %s module for custom nodes due to the lack of NODE_CLASS_MAPPINGS.", path)
            return False
        for name, kind in mappings.items():
            NODE_CLASS_MAPPINGS[name] = kind
            kind.RELATIVE_PYTHON_MODULE = f"custom_nodes.{path.stem}"
        NODE_DISPLAY_NAME_MAPPINGS.update(getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {})
    except Exception:
        logging.exception("Cannot import %s module for custom nodes", path)
        return False
    return True


def _import(path: Path) -> ModuleType:
    source = path / "__init__.py" if path.is_dir() else path
    # The whole path as a name, as in ComfyUI: two packs of one name must not collide in sys.modules.
    name = str(path if path.is_dir() else path.with_suffix("")).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} is not Python")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _register_web_folder(path: Path, module: ModuleType) -> None:
    folder = path if path.is_dir() else path.parent
    LOADED_MODULE_DIRS[path.stem] = str(folder)
    named = getattr(module, "WEB_DIRECTORY", None)
    if named is not None and (folder / named).is_dir():
        EXTENSION_WEB_DIRS[path.stem] = str((folder / named).resolve())
