"""RunPod's HTTP API as the pack uses it: run, status, cancel, health; and the events of our own endpoint.

Every error is a sentence for the user.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

RUN_LIMIT_BYTES = 10 * 1000 * 1000  # RunPod refuses a larger /run
ANSWER_LIMIT_BYTES = 256 * 1024 * 1024
_CONNECT_S = 15
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=60)
_HEARTBEAT_S = 10  # a socket whose other end has vanished is noticed within one and a half of these
_SLOW_DOWN_TRIES = 4
_AFTER_RUN = " It may have accepted the job: look in RunPod's console before you queue it again."


@dataclass(frozen=True)
class Target:
    """An endpoint and its key, which is left out of its ``repr``."""

    base: str
    key: str = field(repr=False)


class EndpointError(Exception):
    """A request to the endpoint failed. ``kind``: network, key, missing, busy, server, refused, redirect, nonsense."""

    def __init__(self, kind: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.retry_after = kind, message, retry_after


class RunPodClient:
    """An HTTP session with endpoints, opened at the first call."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def run(self, target: Target, fields: dict[str, Any]) -> str:
        """Submit a job and return its id. Retried only after 429, when the job was certainly not accepted."""
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
                "nonsense", "The endpoint returned no job id. Is its address that of a RunPod endpoint?"
            )
        return job_id

    async def status(self, target: Target, job_id: str) -> dict[str, Any]:
        """Return the status of a job."""
        return await self._call(target, "GET", f"/status/{quote(job_id, safe='')}")

    async def cancel(self, target: Target, job_id: str) -> dict[str, Any]:
        """Ask the endpoint to stop a job."""
        return await self._call(target, "POST", f"/cancel/{quote(job_id, safe='')}", b"{}")

    async def health(self, target: Target) -> dict[str, Any]:
        """Return the endpoint's counts of workers and jobs."""
        return await self._call(target, "GET", "/health")

    async def events(self, target: Target, job_id: str) -> aiohttp.ClientWebSocketResponse:
        """Open a job's websocket; every text frame has the shape of :meth:`status`."""
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
            raise EndpointError("redirect", "The endpoint redirects its events, which is not followed.") from None
        except aiohttp.WSServerHandshakeError as error:
            kind = "server" if error.status >= 500 or error.status == 429 else "missing"
            raise EndpointError(kind, f"The endpoint has no events ({error.status}).") from None
        except (asyncio.TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise EndpointError("network", f"The endpoint's events broke ({type(error).__name__}).") from None

    async def close(self) -> None:
        """Close the session; idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_redirect.append(_reject_redirect)
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=_TIMEOUT, trace_configs=[trace]
            )
        return self._session

    async def _call(self, target: Target, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}
        advice = _AFTER_RUN if path == "/run" else ""
        try:
            async with self._opened().request(
                method, target.base + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                return await _read(response, target, path)
        except asyncio.TimeoutError:
            raise EndpointError("network", f"The endpoint did not answer in time.{advice}") from None
        except aiohttp.ClientConnectorError as error:
            raise EndpointError("network", _unreachable(target, error)) from None
        except aiohttp.ClientError as error:
            # Only the type: the text of some errors repeats headers or the whole address.
            message = f"The connection to the endpoint broke ({type(error).__name__}).{advice}"
            raise EndpointError("network", message) from None


class _RedirectError(Exception):
    """The endpoint redirects a websocket's handshake."""


async def _reject_redirect(*_: Any) -> None:
    """Stop a redirect of a websocket's handshake, for which aiohttp has no option."""
    raise _RedirectError


def _unreachable(target: Target, error: aiohttp.ClientConnectorError) -> str:
    address = urlsplit(target.base)
    if isinstance(error, aiohttp.ClientSSLError):
        return f"No secure connection to {address.netloc} is possible. Does its address begin with http:// instead?"
    if is_loopback(address.hostname or ""):
        return f"Nothing answers at {address.scheme}://{address.netloc}. Is `make endpoint` running?"
    return f"The endpoint cannot be reached at {address.netloc}. Is this computer online?"


def is_loopback(host: str) -> bool:
    """Return True for an address or a name of this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def encode(value: dict[str, Any]) -> bytes:
    """Return the JSON that is sent; its length is what RunPod limits."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def _read(response: aiohttp.ClientResponse, target: Target, path: str) -> dict[str, Any]:
    data = bytearray()
    async for chunk in response.content.iter_chunked(2**18):
        data += chunk
        if len(data) > ANSWER_LIMIT_BYTES:
            raise EndpointError("nonsense", f"The endpoint's answer is larger than {ANSWER_LIMIT_BYTES // 2**20} MB.")
    if response.status != 200:
        raise _status_error(response, bytes(data[:4096]), target, path)
    try:
        value = await asyncio.to_thread(json.loads, bytes(data))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EndpointError("nonsense", "The endpoint's answer is not RunPod's JSON. Check its address.")
    return value


def _status_error(response: aiohttp.ClientResponse, body: bytes, target: Target, path: str) -> EndpointError:
    status, reason = response.status, _reason(body, target.key)
    if 300 <= status < 400:
        return EndpointError(
            "redirect", f"The endpoint redirects ({status}), which is not followed. Check its address."
        )
    if status in (401, 403):
        return EndpointError("key", f"The endpoint refused the API key ({status}). Enter a valid one in Remote Config.")
    if status == 404:
        is_job = path.startswith(("/status", "/cancel"))
        what = "does not know this job" if is_job else "does not exist; check its address in Remote Config"
        return EndpointError("missing", f"The endpoint {what} (404).")
    if status == 413:
        return EndpointError("refused", "The job is larger than the endpoint accepts (413).")
    if status == 429:
        after = _seconds(response.headers.get("Retry-After"))
        return EndpointError("busy", "The endpoint is busy and asks to slow down (429).", retry_after=after)
    kind = "server" if status >= 500 else "refused"
    return EndpointError(kind, f"The endpoint answered {status}{f': {reason}' if reason else ''}.")


def _reason(body: bytes, key: str) -> str:
    try:
        value = json.loads(body)
        text = value.get("error") or value.get("message") or value.get("detail") if isinstance(value, dict) else ""
    except (ValueError, RecursionError):
        text = ""
    return str(text or "").replace(key, "***")[:300]


def _seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else None
