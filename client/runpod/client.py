"""RunPod's HTTP as the pack uses it: run, status, cancel, health; and the events of an endpoint of one's own.

Every refusal is a sentence for people.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp

RUN_LIMIT_BYTES = 10 * 1000 * 1000  # RunPod refuses a larger /run
ANSWER_LIMIT_BYTES = 256 * 1024 * 1024
_CONNECT_S = 15
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=60)
_HEARTBEAT_S = 10  # a socket whose other end has gone without a word is noticed within one and a half of these
_SLOW_DOWN_TRIES = 4


@dataclass(frozen=True)
class Target:
    """An endpoint and its key; the key stays out of every printed form."""

    base: str
    key: str = field(repr=False)


class EndpointError(Exception):
    """The endpoint said no, or nothing. ``kind``: network, key, missing, busy, server, refused, redirect, nonsense."""

    def __init__(self, kind: str, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.status, self.retry_after = kind, message, status, retry_after


class RunPodClient:
    """One HTTP session, opened at the first call, closed once."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def run(self, target: Target, fields: dict[str, Any]) -> str:
        """Submit a job; its id at RunPod. Tried again only after 429, when it was certainly not taken."""
        body = await asyncio.to_thread(encode, {"input": fields})
        for attempt in range(_SLOW_DOWN_TRIES):
            try:
                answer = await self._call(target, "POST", "/run", body)
                break
            except EndpointError as error:
                if error.kind != "busy" or attempt == _SLOW_DOWN_TRIES - 1:
                    raise
                await asyncio.sleep(min(error.retry_after or 2**attempt, 15))
        job_id = answer.get("id")
        if not isinstance(job_id, str) or not job_id:
            raise EndpointError(
                "nonsense", "The endpoint took the job but gave no id. Is this the address of a RunPod endpoint?"
            )
        return job_id

    async def status(self, target: Target, job_id: str) -> dict[str, Any]:
        """What the endpoint knows about a job."""
        return await self._call(target, "GET", f"/status/{quote(job_id, safe='')}")

    async def cancel(self, target: Target, job_id: str) -> dict[str, Any]:
        """Ask the endpoint to stop a job."""
        return await self._call(target, "POST", f"/cancel/{quote(job_id, safe='')}", b"{}")

    async def health(self, target: Target) -> dict[str, Any]:
        """Workers and jobs of the endpoint."""
        return await self._call(target, "GET", "/health")

    async def events(self, target: Target, job_id: str) -> aiohttp.ClientWebSocketResponse:
        """Open a job's websocket, whose every text frame is what :meth:`status` answers."""
        opening: Awaitable[Any] = self._opened().ws_connect(
            f"{target.base}/events/{quote(job_id, safe='')}",
            headers={"Authorization": f"Bearer {target.key}"},
            heartbeat=_HEARTBEAT_S,
            max_msg_size=ANSWER_LIMIT_BYTES,
            timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
        )
        try:
            return await asyncio.wait_for(opening, _CONNECT_S)
        except _RedirectError:
            raise EndpointError("redirect", "The endpoint's events are redirected, which is not followed.") from None
        except aiohttp.WSServerHandshakeError as error:
            kind = "server" if error.status >= 500 or error.status == 429 else "missing"
            raise EndpointError(kind, f"The endpoint has no events ({error.status}).", status=error.status) from None
        except (asyncio.TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise EndpointError("network", f"The endpoint's events broke ({type(error).__name__}).") from None

    async def close(self) -> None:
        """End the session; idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_redirect.append(_refuse_redirect)
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=_TIMEOUT, trace_configs=[trace]
            )
        return self._session

    async def _call(self, target: Target, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}
        try:
            async with self._opened().request(
                method, target.base + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                return await _read(response, target, path)
        except asyncio.TimeoutError:
            raise EndpointError("network", f"The endpoint did not answer in time.{_doubt(path)}") from None
        except aiohttp.ClientConnectorError:
            raise EndpointError("network", "The endpoint cannot be reached. Is this computer online?") from None
        except aiohttp.ClientError as error:
            # Only the kind: the text of some errors repeats headers or the whole address.
            message = f"The connection to the endpoint broke ({type(error).__name__}).{_doubt(path)}"
            raise EndpointError("network", message) from None


class _RedirectError(Exception):
    """The other side sends a websocket's handshake elsewhere."""


async def _refuse_redirect(*_: Any) -> None:
    """A websocket's handshake cannot be told not to follow: this is called before it would."""
    raise _RedirectError


def _doubt(path: str) -> str:
    if path != "/run":
        return ""
    return " It may have taken the job: look in RunPod's console before you queue it again."


def encode(value: dict[str, Any]) -> bytes:
    """JSON as it is sent, and as its size counts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def _read(response: aiohttp.ClientResponse, target: Target, path: str) -> dict[str, Any]:
    data = bytearray()
    async for chunk in response.content.iter_chunked(2**18):
        data += chunk
        if len(data) > ANSWER_LIMIT_BYTES:
            raise EndpointError("nonsense", f"The endpoint's answer is larger than {ANSWER_LIMIT_BYTES // 2**20} MB.")
    if response.status != 200:
        raise _refusal(response, bytes(data[:4096]), target, path)
    try:
        value = await asyncio.to_thread(json.loads, bytes(data))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EndpointError("nonsense", "The endpoint answered something that is not RunPod's JSON. Check its address.")
    return value


def _refusal(response: aiohttp.ClientResponse, body: bytes, target: Target, path: str) -> EndpointError:
    status, said = response.status, _words(body, target.key)
    if 300 <= status < 400:
        return EndpointError(
            "redirect", f"The endpoint answers with a redirect ({status}), which is not followed.", status=status
        )
    if status in (401, 403):
        message = f"The endpoint refused the API key ({status}). Open Remote Config and enter one that may use it."
        return EndpointError("key", message, status=status)
    if status == 404:
        what = (
            "does not know this job"
            if path.startswith(("/status", "/cancel"))
            else "does not exist; check Remote Config"
        )
        return EndpointError("missing", f"The endpoint {what} (404).", status=status)
    if status == 413:
        return EndpointError("refused", "The job is larger than the endpoint takes (413).", status=status)
    if status == 429:
        after = _seconds(response.headers.get("Retry-After"))
        return EndpointError("busy", "The endpoint asks to slow down (429).", status=status, retry_after=after)
    kind = "server" if status >= 500 else "refused"
    return EndpointError(kind, f"The endpoint answered {status}{f': {said}' if said else ''}.", status=status)


def _words(body: bytes, key: str) -> str:
    try:
        value = json.loads(body)
        text = value.get("error") or value.get("message") or value.get("detail") if isinstance(value, dict) else ""
    except (ValueError, RecursionError):
        text = ""
    return str(text or "").replace(key, "***")[:300]


def _seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else None
