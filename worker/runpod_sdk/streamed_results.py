"""Makes the SDK send an answer without three copies of it in memory.

RunPod's SDK (1.12, rp_http.py) serializes an answer to one string, which aiohttp then encodes, while the answer itself
is still in memory: three copies of its base64. It also formats every answer into two debug lines, even if they are not
logged (rp_job.py). Here the large strings of an answer are sent piece by piece without a copy. Retries, headers and
messages stay the SDK's.
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

from worker.job import JobAnswer

LARGE_CHARS = 1 << 16
PIECE_CHARS = 1 << 17

log = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any]], Awaitable[JobAnswer]]


class WithoutDebugDump(JobAnswer):
    """An answer whose ``repr`` has only its field names, so that logging it costs nothing."""

    def __repr__(self) -> str:
        """Return the names of the fields."""
        return f"<an answer: {', '.join(map(str, self))}>"


def without_debug_dump(handler: Handler) -> Handler:
    """Wrap the handler's answers in :class:`WithoutDebugDump`."""

    @functools.wraps(handler)
    async def handle(event: dict[str, Any]) -> JobAnswer:
        return WithoutDebugDump(await handler(event))

    return handle


def stream_large_results(sender: ModuleType | None = None) -> bool:
    """Make the SDK send large answers piece by piece. An SDK of an unexpected version is left unchanged.

    Args:
        sender: the SDK's module that sends results; rp_http.py if None.

    Returns:
        True if the SDK does so now.
    """
    sender = sender or importlib.import_module("runpod.serverless.modules.rp_http")
    if not _is_as_expected(sender):
        log.warning("unexpected RunPod SDK: large results need more memory")
        return False
    # The SDK passes the result of `dumps` on as the data of an aiohttp request, which may also be a payload.
    sender.json = _Json  # type: ignore[attr-defined]
    return True


def _is_as_expected(sender: Any) -> bool:
    transmit = getattr(sender, "_transmit", None)
    names = [*inspect.signature(transmit).parameters] if transmit else []
    return getattr(sender, "json", None) in (json, _Json) and names == ["client_session", "url", "job_data"]


class _Json:
    """Stands in for the module ``json`` in rp_http.py, which only uses ``dumps``."""

    @staticmethod
    def dumps(answer: Any, **options: Any) -> str | payload.Payload:
        pieces = json_pieces(answer, **options)
        return pieces[0] if len(pieces) == 1 else _JsonPayload(pieces)


def json_pieces(answer: Any, **options: Any) -> list[str]:
    """Return an answer's JSON in pieces, where each large string is a piece of its own and not a copy.

    Args:
        answer: the answer to serialize.
        options: of ``json.dumps``.

    Raises:
        TypeError, ValueError: as ``json.dumps``.
    """
    large: list[str] = []
    token = secrets.token_hex(16)
    text = json.dumps(_with_tokens(answer, token, large), **options)
    between = text.split(token)
    pieces = [between[0]]
    for string, following in zip(large, between[1:], strict=True):
        pieces += [string, following]
    return pieces


def _with_tokens(value: Any, token: str, large: list[str]) -> Any:
    """Return the value with a token in place of every large string that needs no escaping in JSON."""
    if isinstance(value, str) and len(value) >= LARGE_CHARS and _needs_no_escape(value):
        large.append(value)
        return token
    if isinstance(value, dict):
        return {key: _with_tokens(each, token, large) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_tokens(each, token, large) for each in value]
    return value


def _needs_no_escape(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


class _JsonPayload(payload.Payload):
    """Text as a request's body. It can be written several times, as retries do.

    Args:
        pieces: the text.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        super().__init__(pieces)
        self._pieces = pieces
        self._size = sum(len(piece) if piece.isascii() else len(piece.encode()) for piece in pieces)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the whole text."""
        return "".join(self._pieces)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all pieces, waiting for each, so that no buffer holds the whole text."""
        for part in self._parts():
            await writer.write(part)

    def _parts(self) -> Iterator[bytes]:
        for piece in self._pieces:
            for start in range(0, len(piece), PIECE_CHARS):
                yield piece[start : start + PIECE_CHARS].encode()
