"""Puts the pack into the ComfyUI that imports it."""

from __future__ import annotations

from typing import Any

from .comfyui.server import Host
from .jobs import JobTable
from .remote_sink import PromptServer, folder_paths, log
from .routes import add_routes
from .service import RemoteService
from .settings.config import Config


def install() -> None:
    """Open the routes and follow the jobs that are out; nothing where there is no ComfyUI around."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    if any(getattr(route, "path", None) == "/remote/run" for route in server.routes):
        log.error("Comfy Remote Serverless is installed twice; this copy does nothing. Remove one.")
        return
    try:
        host = Host(server, folder_paths, _classes)
        config = Config(host.private_folder)
        table = JobTable(config.folder / "jobs.sqlite")
    except OSError as error:
        log.error("Comfy Remote Serverless cannot keep its files: %s", error)
        return
    service = RemoteService(host, config, table)
    add_routes(server.routes, service)
    server.app.on_startup.append(service.start)
    server.app.on_cleanup.append(service.close)


def _classes() -> dict[str, Any]:
    import nodes  # noqa: PLC0415 - ComfyUI's module, complete only after every pack is loaded

    return nodes.NODE_CLASS_MAPPINGS
