"""The installation of the pack into the ComfyUI that imports it."""

from __future__ import annotations

from typing import Any

from .comfyui.server import LocalComfyUI
from .jobs import JobTable
from .remote_sink import PromptServer, folder_paths, log
from .routes import add_routes
from .service import RemoteService
from .settings.config import Config


def install_pack() -> None:
    """Open the routes and follow the unfinished jobs. Outside ComfyUI, do nothing."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    if any(getattr(route, "path", None) == "/remote/run" for route in server.routes):
        log.error("Comfy Remote Serverless is installed twice; this copy does nothing. Remove one of them.")
        return
    try:
        comfyui = LocalComfyUI(server, folder_paths, _node_classes)
        config = Config(comfyui.private_folder)
        table = JobTable(config.folder / "jobs.sqlite")
    except OSError as error:
        log.error("Comfy Remote Serverless cannot write its settings and jobs: %s", error)
        return
    service = RemoteService(comfyui, config, table)
    add_routes(server.routes, service)
    server.app.on_startup.append(service.start)
    server.app.on_cleanup.append(service.close)


def _node_classes() -> dict[str, Any]:
    import nodes  # noqa: PLC0415 - ComfyUI's module is complete only after every pack is loaded

    return nodes.NODE_CLASS_MAPPINGS
