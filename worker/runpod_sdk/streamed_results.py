"""Lets the SDK send an answer without building it three times over in memory.

RunPod's SDK (1.12, rp_http.py) makes one string of an answer, which aiohttp then encodes, while the answer itself still
stands: with its base64 that is three times an answer. And it formats every answer into two debug lines, shown or not
(rp_job.py). Here the large strings of an answer go out as they lie, piece by piece; all else stays the SDK's: its
retries, its headers, its words when a result cannot be delivered.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter

LARGE_CHARS = 1 << 16
PIECE_CHARS = 1 << 17

log = logging.getLogger(__name__)

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any]], Awaitable[Answer]]


class WithoutDebugDump(Answer):
    """An answer that says nothing of its contents where it is formatted into a line of a log."""

    def __repr__(self) -> str:
        """Its fields' names."""
        return f"<an answer: {', '.join(map(str, self))}>"


def without_debug_dump(handler: Handler) -> Handler:
    """The handler, with answers that cost nothing to be logged."""

    @functools.wraps(handler)
    async def handle(event: dict[str, Any]) -> Answer:
        return WithoutDebugDump(await handler(event))

    return handle


def stream_large_results(sender: ModuleType | None = None) -> bool:
    """Make the SDK send large answers piece by piece; an SDK of another shape is left as it is.

    Args:
        sender: the SDK's module that sends results; rp_http.py when left out.

    Returns:
        Whether it does so now.
    """
    sender = sender or importlib.import_module("runpod.serverless.modules.rp_http")
    if not _is_as_expected(sender):
        log.warning("this RunPod SDK sends results in a way of its own: large ones take more memory")
        return False
    # What `dumps` makes goes, untouched, as the data of an aiohttp request: that may be a body which writes itself.
    sender.json = _Json  # type: ignore[attr-defined]
    return True


def _is_as_expected(sender: Any) -> bool:
    transmit = getattr(sender, "_transmit", None)
    names = [*inspect.signature(transmit).parameters] if transmit else []
    return getattr(sender, "json", None) in (json, _Json) and names == ["client_session", "url", "job_data"]


class _Json:
    """The module ``json`` as rp_http.py uses it."""

    @staticmethod
    def dumps(answer: Any, **options: Any) -> str | payload.Payload:
        pieces = in_pieces(answer, **options)
        return pieces[0] if len(pieces) == 1 else _Body(pieces)


def in_pieces(answer: Any, **options: Any) -> list[str]:
    """The JSON of an answer, cut so that every large string of it is a piece that is not a copy.

    Args:
        answer: what is sent.
        options: of ``json.dumps``.

    Raises:
        TypeError, ValueError: as ``json.dumps``.
    """
    large: list[str] = []
    token = secrets.token_hex(16)
    text = json.dumps(_with_holes(answer, token, large), **options)
    around = text.split(token)
    pieces = [around[0]]
    for string, after in zip(large, around[1:], strict=True):
        pieces += [string, after]
    return pieces


def _with_holes(value: Any, token: str, large: list[str]) -> Any:
    """The value with a token in place of every large string that JSON writes as it is."""
    if isinstance(value, str) and len(value) >= LARGE_CHARS and _is_plain(value):
        large.append(value)
        return token
    if isinstance(value, dict):
        return {key: _with_holes(each, token, large) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_holes(each, token, large) for each in value]
    return value


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


class _Body(payload.Payload):
    """Text as the body of a request. It may be written several times, as a retry does.

    Args:
        pieces: the text.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        super().__init__(pieces)
        self._pieces = pieces
        self._size = sum(len(piece) if piece.isascii() else len(piece.encode()) for piece in pieces)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The whole text."""
        return "".join(self._pieces)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it, no faster than it is taken."""
        for part in self._parts():
            await writer.write(part)

    def _parts(self) -> Iterator[bytes]:
        for piece in self._pieces:
            for start in range(0, len(piece), PIECE_CHARS):
                yield piece[start : start + PIECE_CHARS].encode()
