"""The steps around every HTTP request: counting, faults, caching headers, and the origin check."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from comfy.cli_args import args
from faults import faults

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Counters:
    """Numbers of requests, sockets and prompts since the start."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.sockets_opened = 0
        self.prompts_executed = 0


def create_all(counters: Counters) -> list[Middleware]:
    allowed = args.enable_cors_header
    origin = create_cors_middleware(allowed) if allowed else same_origin
    return [count_and_fault(counters), cache_control, origin]


def count_and_fault(counters: Counters) -> Middleware:
    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path.removeprefix("/api")
        counters.requests[path] += 1
        hang = faults.take_path("http_hang", path)
        if hang:
            await asyncio.sleep(float(hang))
        if faults.take_path("http_500", path):
            return web.Response(status=500, text="500 Internal Server Error\n\nThe simulator was told to fail\n")
        return await handler(request)

    return handle


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


def create_cors_middleware(allowed_origin: str) -> Middleware:
    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = web.Response() if request.method == "OPTIONS" else await handler(request)
        if not response.prepared:
            response.headers["Access-Control-Allow-Origin"] = allowed_origin
            response.headers["Access-Control-Allow-Methods"] = "POST, GET, DELETE, PUT, OPTIONS"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization"
            response.headers["Access-Control-Allow-Credentials"] = "true"
        return response

    return cors


@web.middleware
async def same_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host and origin and not _same_site(host.lower(), origin.lower()):
        logging.warning("WARNING: request with non matching host and origin %s != %s, returning 403", host, origin)
        return web.Response(status=403)
    return web.Response() if request.method == "OPTIONS" else await handler(request)


def _same_site(host: str, origin: str) -> bool:
    """Return False if a foreign page calls a loopback address: else any website could reach a local ComfyUI."""
    own, page = urlsplit("//" + host), urlsplit(origin)
    if not own.hostname or not page.hostname or not is_loopback(own.hostname):
        return True
    ports_match = own.port is None or page.port is None or own.port == page.port
    return own.hostname == page.hostname and ports_match


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except socket.gaierror:
        return False
    return all(ipaddress.ip_address(address).is_loopback for address in found)
