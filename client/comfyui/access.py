"""Access checks of the routes that cost money or change settings; stricter than the sink's, which curl may call."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ..remote_sink import RejectedError, check_caller, check_json, log, parse_address, read_json

HEADER = "X-Remote-Serverless"
MAX_BODY_BYTES = 64 * 1024 * 1024

Handler = Callable[[dict[str, Any]], Awaitable[Any]]


def guarded(handler: Handler, *, own_machine_only: bool = False) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Wrap a handler that takes an object (the body, or the query of a GET) and returns one.

    A page of another origin cannot send the header, even if ComfyUI runs with --enable-cors-header.
    """

    async def handle(request: web.Request) -> web.Response:
        try:
            check_caller(request)
            if request.headers.get(HEADER) != "1":
                raise RejectedError(403, f"This is for ComfyUI's own page: the header {HEADER} is missing.")
            if own_machine_only:
                check_own_machine(request)
            if request.method == "GET":
                return web.json_response(await handler(dict(request.query)))
            check_json(request)
            return web.json_response(await handler(await read_json(request, MAX_BODY_BYTES)))
        except RejectedError as error:
            return error.response()
        except HttpError as error:
            return web.json_response(error.body, status=error.status)
        except Exception as error:
            log.exception("%s failed", request.path)
            return RejectedError(500, f"{type(error).__name__} in Comfy Remote Serverless; see the log.").response()

    return handle


class HttpError(Exception):
    """Ends a handler with a status other than 200 and a JSON body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(status))
        self.status, self.body = status, body


def check_own_machine(request: web.Request) -> None:
    """Raise RejectedError for callers on other machines: the endpoint decides where prompts and money go."""
    if os.environ.get("REMOTE_SERVERLESS_ALLOW_REMOTE_CONFIG", "").lower() in ("1", "true", "yes", "on"):
        return
    forwarded = any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"))
    caller = parse_address(request.remote or "")
    if forwarded or caller is None or not caller.is_loopback:
        raise RejectedError(
            403,
            "Settings can be changed only in a browser on the machine that runs ComfyUI. "
            "To allow others, start it with REMOTE_SERVERLESS_ALLOW_REMOTE_CONFIG=1.",
        )
