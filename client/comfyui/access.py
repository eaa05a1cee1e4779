"""Who may call the routes that cost money or change settings: more than the sink asks, which curl may call."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ..remote_sink import Refused, check_caller, check_json, log, read_json

HEADER = "X-Remote-Serverless"
MAX_BODY_BYTES = 64 * 1024 * 1024

Handler = Callable[[dict[str, Any]], Awaitable[Any]]


def guarded(handler: Handler, *, own_machine_only: bool = False) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Wrap a handler that takes an object (the body, or the query of a GET) and answers one.

    The header cannot be sent by a page of another origin, not even where ComfyUI runs with --enable-cors-header.
    """

    async def handle(request: web.Request) -> web.Response:
        try:
            check_caller(request)
            if request.headers.get(HEADER) != "1":
                raise Refused(403, f"This is for ComfyUI's own page: the header {HEADER} is missing.")
            if own_machine_only:
                check_own_machine(request)
            if request.method == "GET":
                return web.json_response(await handler(dict(request.query)))
            check_json(request)
            return web.json_response(await handler(await read_json(request, MAX_BODY_BYTES)))
        except Refused as refused:
            return refused.response()
        except Answer as answer:
            return web.json_response(answer.body, status=answer.status)
        except Exception as error:
            log.exception("%s failed", request.path)
            return web.json_response(
                {"error": f"{type(error).__name__} in Comfy Remote Serverless; see the log."}, status=500
            )

    return handle


class Answer(Exception):
    """A handler's answer with another status than 200."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(status))
        self.status, self.body = status, body


def check_own_machine(request: web.Request) -> None:
    """Refuse callers from elsewhere: whoever sets the endpoint decides where this machine's prompts and money go."""
    if os.environ.get("REMOTE_SERVERLESS_ALLOW_REMOTE_CONFIG", "").lower() in ("1", "true", "yes", "on"):
        return
    forwarded = any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"))
    if forwarded or not _is_loopback(request.remote):
        raise Refused(
            403,
            "Settings can be changed only in a browser on the machine that runs ComfyUI. "
            "To allow others, start it with REMOTE_SERVERLESS_ALLOW_REMOTE_CONFIG=1.",
        )


def _is_loopback(address: str | None) -> bool:
    try:
        found = ipaddress.ip_address((address or "").split("%")[0])
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
