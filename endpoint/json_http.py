"""Size-limited request bodies, and answers in JSON."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

DRAIN_FACTOR = 8  # read on to this many times the limit: a sender that cannot finish never reads the answer


async def read_limited(request: web.Request, limit: int) -> bytes | None:
    """Return the body, or None if it is longer than ``limit`` bytes; never keep more than ``limit`` in memory."""
    chunks, size = [], 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > DRAIN_FACTOR * limit:
            break
    return b"".join(chunks) if size <= limit else None


def answer(body: Any, status: int = 200, **headers: str) -> web.Response:
    """Return a JSON response; a body of bytes is JSON already."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return web.Response(body=raw, status=status, content_type="application/json", headers=headers)


def refuse(status: int, message: str, **headers: str) -> web.Response:
    """Return an error response of the one shape that every route uses."""
    return answer({"error": message}, status, **headers)
