"""The routes that describe the engine: nodes, models, extensions, its state, and the frontend's page."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiohttp import web

import folder_paths
import nodes
from comfy_extras.safetensors_header import read_header
from frontend import get_server_features

if TYPE_CHECKING:
    from server import PromptServer

COMFYUI_VERSION = "0.3.64"
_RAM = 16 * 1024**3

_PAGE = (
    "This is the simulator: it answers as ComfyUI does, over HTTP and websocket, without a GPU, torch or models.\n"
    "Install comfyui_frontend_package to see ComfyUI's own pages here.\n"
)


def add_routes(server: PromptServer) -> None:
    routes = server.routes
    for path, answer in _JSON_ROUTES.items():
        routes.get(path)(_json_handler(answer))

    @routes.get("/")
    async def root(_: web.Request) -> web.StreamResponse:
        if server.web_root is None:
            return web.Response(text=_PAGE)
        return web.FileResponse(server.web_root / "index.html", headers={"Cache-Control": "no-cache"})

    @routes.get("/extensions")
    async def extensions(_: web.Request) -> web.Response:
        return web.json_response(_extensions(server.web_root))

    @routes.get("/models/{folder}")
    async def models(request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        if folder not in folder_paths.folder_names_and_paths:
            return web.Response(status=404)
        return web.json_response(folder_paths.get_filename_list(folder))

    @routes.get("/object_info/{node_class}")
    async def object_info(request: web.Request) -> web.Response:
        name = request.match_info["node_class"]
        return web.json_response({name: node_info(name)} if name in nodes.NODE_CLASS_MAPPINGS else {})

    @routes.get("/view_metadata/{folder}")
    async def metadata(request: web.Request) -> web.Response:
        found = _metadata(request.match_info["folder"], request.query.get("filename", ""))
        return web.Response(status=404) if found is None else web.json_response(found)


def _json_handler(answer: Any) -> Any:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(answer())

    return handler


def node_info(name: str) -> dict[str, Any]:
    kind = nodes.NODE_CLASS_MAPPINGS[name]
    inputs = kind.INPUT_TYPES()
    info = {
        "input": inputs,
        "input_order": {category: list(fields) for category, fields in inputs.items()},
        "output": kind.RETURN_TYPES,
        "output_is_list": getattr(kind, "OUTPUT_IS_LIST", [False] * len(kind.RETURN_TYPES)),
        "output_name": getattr(kind, "RETURN_NAMES", kind.RETURN_TYPES),
        "name": name,
        "display_name": nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, name),
        "description": getattr(kind, "DESCRIPTION", ""),
        "python_module": getattr(kind, "RELATIVE_PYTHON_MODULE", "nodes"),
        "category": getattr(kind, "CATEGORY", "sd"),
        "output_node": getattr(kind, "OUTPUT_NODE", False) is True,
    }
    if getattr(kind, "NEW_STYLE", False):
        tooltips = [None] * len(kind.RETURN_TYPES)
        info |= {"output_tooltips": tooltips, "deprecated": False, "experimental": False, "api_node": False}
    if hasattr(kind, "OUTPUT_TOOLTIPS"):
        info["output_tooltips"] = kind.OUTPUT_TOOLTIPS
    for flag in ("DEPRECATED", "EXPERIMENTAL"):
        if getattr(kind, flag, False):
            info[flag.lower()] = True
    if hasattr(kind, "API_NODE"):
        info["api_node"] = kind.API_NODE
    return info


def _all_nodes() -> dict[str, Any]:
    found = {}
    for name in nodes.NODE_CLASS_MAPPINGS:
        try:
            found[name] = node_info(name)
        except Exception:
            logging.exception("[ERROR] An error occurred while retrieving information for the '%s' node.", name)
    return found


def _embeddings() -> list[str]:
    return [str(Path(name).with_suffix("")) for name in folder_paths.get_filename_list("embeddings")]


def _experimental_models() -> list[dict[str, Any]]:
    hidden = {"configs", "custom_nodes"}
    every = folder_paths.folder_names_and_paths.items()
    return [{"name": name, "folders": folders} for name, (folders, _) in every if name not in hidden]


def _system_stats() -> dict[str, Any]:
    memory = {"vram_total": _RAM, "vram_free": _RAM, "torch_vram_total": _RAM, "torch_vram_free": _RAM}
    return {
        "system": {
            "os": os.name,
            "ram_total": _RAM,
            "ram_free": _RAM,
            "comfyui_version": COMFYUI_VERSION,
            "required_frontend_version": "1.27.10",
            "installed_templates_version": None,
            "required_templates_version": "0.1.95",
            "python_version": sys.version,
            "pytorch_version": "none",
            "embedded_python": False,
            "argv": sys.argv,
            "simulator": True,
        },
        "devices": [{"name": "simulator", "type": "cpu", "index": None, **memory}],
    }


def _extensions(web_root: Path | None) -> list[str]:
    found = []
    if web_root:
        found = ["/" + path.relative_to(web_root).as_posix() for path in (web_root / "extensions").rglob("*.js")]
    for name, folder in nodes.EXTENSION_WEB_DIRS.items():
        scripts = (path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.js"))
        found += [f"/extensions/{quote(name)}/{script}" for script in scripts]
    return found


def _metadata(folder: str, filename: str) -> Any:
    path = folder_paths.get_full_path(folder, filename) if filename.endswith(".safetensors") else None
    if path is None:
        return None
    try:
        return read_header(path).get("__metadata__")
    except (OSError, ValueError, json.JSONDecodeError):
        return None


_JSON_ROUTES = {
    "/features": get_server_features,
    "/system_stats": _system_stats,
    "/object_info": _all_nodes,
    "/models": lambda: list(folder_paths.folder_names_and_paths),
    "/experiment/models": _experimental_models,
    "/embeddings": _embeddings,
    "/workflow_templates": dict,
    "/i18n": dict,
    "/internal/logs": str,
    "/internal/folder_paths": lambda: {k: v[0] for k, v in folder_paths.folder_names_and_paths.items()},
}
