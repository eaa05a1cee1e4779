"""The routes of the local ComfyUI, in one table. ``/remote/save`` is the sink's own."""

from __future__ import annotations

from typing import Any

from .comfyui.access import guarded
from .service import RemoteService


def add_routes(routes: Any, service: RemoteService) -> None:
    """Open them; ComfyUI gives each an ``/api`` twin."""
    table = (
        ("POST", "/remote/run", guarded(service.run)),
        ("GET", "/remote/jobs", guarded(service.jobs)),
        ("POST", "/remote/attach", guarded(service.attach)),
        ("POST", "/remote/cancel", guarded(service.cancel)),
        ("GET", "/remote/config", guarded(service.get_config)),
        ("POST", "/remote/config", guarded(service.set_config, own_machine_only=True)),
        ("POST", "/remote/test", guarded(service.dialog.test, own_machine_only=True)),
    )
    for method, path, handler in table:
        routes.route(method, path)(handler)
