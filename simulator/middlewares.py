"""What happens to every HTTP request: faults, counting, caching headers, and who may ask from a browser."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from comfy.cli_args import args
from misbehave import faults

if TYPE_CHECKING:
    from counters import Counters

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def watch(counters: Counters) -> Middleware:
    @web.middleware
    async def watching(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path.removeprefix("/api")
        counters.requests[path] += 1
        hang = faults.take_path("http_hang", path)
        if hang:
            await asyncio.sleep(float(hang))
        if faults.take_path("http_500", path):
            return web.Response(status=500, text="500 Internal Server Error\n\nThe simulator was told to fail\n")
        return await handler(request)

    return watching


@web.middleware
async def cache_control(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    path = request.path.lower()
    if path.endswith((".js", ".css")):
        response.headers.setdefault("Cache-Control", "no-cache")
    elif path.endswith(_IMAGES) and response.status in {200, 206, 404}:
        age = 3600 if response.status == 404 else 86400
        response.headers.setdefault("Cache-Control", f"public, max-age={age}")
    return response


def origin_check() -> Middleware:
    allowed = args.enable_cors_header

    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = web.Response() if request.method == "OPTIONS" else await handler(request)
        if not response.prepared:
            response.headers["Access-Control-Allow-Origin"] = allowed
            response.headers["Access-Control-Allow-Methods"] = "POST, GET, DELETE, PUT, OPTIONS"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization"
            response.headers["Access-Control-Allow-Credentials"] = "true"
        return response

    @web.middleware
    async def same_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if host and origin and not _same_site(host.lower(), origin.lower()):
            logging.warning("WARNING: request with non matching host and origin %s != %s, returning 403", host, origin)
            return web.Response(status=403)
        return web.Response() if request.method == "OPTIONS" else await handler(request)

    return cors if allowed else same_origin


def _same_site(host: str, origin: str) -> bool:
    """Answer no only where a page from elsewhere talks to a loopback address: that is how a website would get in."""
    own, theirs = urlsplit("//" + host), urlsplit(origin)
    if not own.hostname or not theirs.hostname or not _is_loopback(own.hostname):
        return True
    ports_match = own.port is None or theirs.port is None or own.port == theirs.port
    return own.hostname == theirs.hostname and ports_match


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except socket.gaierror:
        return False
    return all(ipaddress.ip_address(address).is_loopback for address in found)
