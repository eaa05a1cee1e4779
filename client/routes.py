"""The pack's routes in one table, except ``/remote/save``, which the sink opens."""

from __future__ import annotations

from typing import Any

from .comfyui.access import guarded
from .service import RemoteService


def add_routes(routes: Any, service: RemoteService) -> None:
    """Open the routes; ComfyUI adds each one again under ``/api``."""
    table = (
        ("POST", "/remote/run", guarded(service.run)),
        ("GET", "/remote/jobs", guarded(service.jobs)),
        ("POST", "/remote/attach", guarded(service.attach)),
        ("POST", "/remote/cancel", guarded(service.cancel)),
        ("GET", "/remote/config", guarded(service.get_config)),
        ("POST", "/remote/config", guarded(service.set_config, own_machine_only=True)),
        ("POST", "/remote/test", guarded(service.config_routes.test, own_machine_only=True)),
    )
    for method, path, handler in table:
        routes.route(method, path)(handler)
