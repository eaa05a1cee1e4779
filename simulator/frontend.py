"""ComfyUI's own frontend, if its package is installed, and the feature flags that it is sent."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from comfy.cli_args import args


def find_web_root() -> Path | None:
    if args.front_end_root:
        return Path(args.front_end_root)
    package = importlib.util.find_spec("comfyui_frontend_package")
    root = Path(package.origin).parent / "static" if package and package.origin else None
    return root if root and (root / "index.html").exists() else None


def get_server_features() -> dict[str, Any]:
    return {"supports_preview_metadata": True, "max_upload_size": round(args.max_upload_size * 1024 * 1024)}
