"""ComfyUI's frontend in several versions, each installed once into a cache outside the environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "frontends"
VERSIONS = ("1.27.10", "1.42.15", "newest")
NEWEST_FOR_S = 24 * 3600


def static_folder(version: str) -> Path:
    """The files that ComfyUI would serve; installed with pip when they are not there yet.

    Raises:
        RuntimeError: pip could not get them and no earlier copy is there.
    """
    folder = CACHE / version
    static = folder / "comfyui_frontend_package" / "static"
    is_there = (static / "index.html").exists()
    is_old = version == "newest" and is_there and time.time() - folder.stat().st_mtime > NEWEST_FOR_S
    if is_there and not is_old:
        return static
    problem = _install(version, folder)
    if problem and not is_there:
        raise RuntimeError(f"comfyui-frontend-package {version} cannot be installed: {problem}")
    return static


def _install(version: str, folder: Path) -> str:
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    requirement = "comfyui-frontend-package" + ("" if version == "newest" else f"=={version}")
    part = folder.with_name(f".{version}.part")
    shutil.rmtree(part, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(part), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip()[-500:]
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return ""
