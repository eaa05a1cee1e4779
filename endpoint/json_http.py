"""Reading a request's body within a limit, and answering in JSON."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

DRAINED = 8  # times the limit: a sender that cannot finish never reads the answer


async def read_limited(request: web.Request, limit: int) -> bytes | None:
    """The body; None when it is longer than ``limit`` bytes (of which no more than that is ever kept)."""
    chunks, size = [], 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > DRAINED * limit:
            break
    return b"".join(chunks) if size <= limit else None


def answer(body: Any, status: int = 200, **headers: str) -> web.Response:
    """JSON; bytes are JSON already."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return web.Response(body=raw, status=status, content_type="application/json", headers=headers)


def refuse(status: int, message: str, **headers: str) -> web.Response:
    """An error as every route answers it."""
    return answer({"error": message}, status, **headers)
