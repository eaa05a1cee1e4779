"""Client of ComfyUI's HTTP API and websocket: one kept-alive session and one socket across all jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

CONNECT_TIMEOUT_S = 3.0
SLOWEST_UPLOAD_BYTES_S = 1 << 20
ANSWER_TIMEOUT_S = 30.0  # ComfyUI answers from its event loop, which a custom node can block for long
QUICK_TIMEOUT_S = 5.0  # of requests that are repeated anyway
PREVIEW_WITH_METADATA = 4  # of ComfyUI's binary frame kinds; the older kind 1 does not name its prompt
RECONNECT_DELAYS_S = (0.05, 0.1, 0.2, 0.5)
SOCKET_OPEN = "worker.socket_open"
"""Type of the event this module adds when the socket is (again) connected: events before it may be lost."""

PREVIEW = "worker.preview"
"""Type of the event made of a binary preview frame: ``image`` (JPEG bytes), ``node`` and ``prompt_id`` if known."""

Event = dict[str, Any]

log = logging.getLogger(__name__)


class NoAnswerError(Exception):
    """ComfyUI did not answer: no connection, a broken one, or too slow."""


class ComfyApi:
    """Client of one ComfyUI. Its requests raise :class:`NoAnswerError` when ComfyUI does not answer.

    Args:
        url: ComfyUI's http address.
        client_id: addressee of ComfyUI's events; the same over reconnects.
    """

    def __init__(self, url: str, client_id: str) -> None:
        self.url = url
        self.client_id = client_id
        self._socket_url = f"ws{url.removeprefix('http')}/ws?clientId={client_id}"
        self._session: aiohttp.ClientSession | None = None
        self._owner: asyncio.Task[None] | None = None
        self._listener: Callable[[Event], None] = _ignore
        self._connected = asyncio.Event()

    # ------------------------------------------------------------------ events

    def follow_events(self) -> None:
        """Keep a websocket open from now on, in a task that ends with the event loop; idempotent."""
        if self._owner is None:
            self._owner = asyncio.create_task(self._stay_connected())

    @contextlib.contextmanager
    def subscribed(self, listener: Callable[[Event], None]) -> Iterator[None]:
        """Pass each event to ``listener`` inside a ``with`` block."""
        self._listener = listener
        try:
            yield
        finally:
            self._listener = _ignore

    async def connected(self, timeout_s: float) -> bool:
        """Wait until the websocket is open. Return False if it is not by then; jobs work without it, only slower."""
        if not self._connected.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._connected.wait(), timeout_s)
        return self._connected.is_set()

    async def close(self) -> None:
        """Close the socket and the session; idempotent."""
        if self._owner:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
        if self._session:
            await self._session.close()

    async def _stay_connected(self) -> None:
        failures = 0
        try:
            while True:
                try:
                    await self._read_until_closed()
                    failures = 0
                except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                    log.debug("ComfyUI's websocket: %s", error)
                    failures += 1
                self._connected.clear()
                await asyncio.sleep(RECONNECT_DELAYS_S[min(failures, len(RECONNECT_DELAYS_S) - 1)])
        finally:
            if self._session:
                await self._session.close()  # the loop ends: no other code will

    async def _read_until_closed(self) -> None:
        connecting = self._open_session().ws_connect(self._socket_url, max_msg_size=0)
        socket = await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
        async with socket:
            await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            self._connected.set()
            self._dispatch({"type": SOCKET_OPEN, "data": {}})
            async for message in socket:
                parse = _PARSERS.get(message.type)
                if parse and (event := parse(message.data)):
                    self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        """Log a listener's exception and keep delivering: a lost event can stall a job for minutes."""
        try:
            self._listener(event)
        except Exception:
            log.exception("cannot process an event of ComfyUI (%.40s)", event["type"])

    # ------------------------------------------------------------------ requests

    async def is_up(self) -> bool:
        """Return True if it answers; a ComfyUI that is still starting does not."""
        try:
            status, _ = await self._call("GET", "/system_stats", timeout_s=QUICK_TIMEOUT_S)
        except NoAnswerError:
            return False
        return status == 200

    async def system_stats(self) -> dict[str, Any]:
        """Return versions, devices and memory, as ComfyUI reports them."""
        return _json((await self._call("GET", "/system_stats"))[1])

    async def submit(self, body: dict[str, Any], patience_s: float) -> tuple[int, dict[str, Any]]:
        """POST /prompt. Return the status and the body, also of a refusal."""
        status, answer = await self._call("POST", "/prompt", body, patience_s)
        return status, _json(answer)

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return a prompt's history entry; None if it has not ended or ComfyUI does not have it."""
        _, answer = await self._call("GET", f"/history/{quote(prompt_id)}", timeout_s=QUICK_TIMEOUT_S)
        entry = _json(answer).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    async def is_queued(self, prompt_id: str) -> bool:
        """Return True if a prompt waits or runs."""
        queue = _json((await self._call("GET", "/queue", timeout_s=QUICK_TIMEOUT_S))[1])
        items = [*(queue.get("queue_running") or ()), *(queue.get("queue_pending") or ())]
        return any(item[1] == prompt_id for item in items)

    async def has_prompt(self, prompt_id: str) -> bool:
        """Return True if a prompt waits, runs or has ended in this ComfyUI."""
        return await self.is_queued(prompt_id) or await self.history(prompt_id) is not None

    async def interrupt(self, prompt_id: str) -> None:
        """Remove a prompt from the queue, and stop it if it runs. Other prompts go on."""
        await self._call("POST", "/queue", {"delete": [prompt_id]}, QUICK_TIMEOUT_S)
        await self._call("POST", "/interrupt", {"prompt_id": prompt_id}, QUICK_TIMEOUT_S)

    async def free(self, *, unload_models: bool) -> None:
        """Clear ComfyUI's execution cache and, with ``unload_models``, its models in memory."""
        await self._call("POST", "/free", {"unload_models": unload_models, "free_memory": True})

    async def object_info(self, class_type: str) -> dict[str, Any]:
        """Return the inputs of one node class; an empty object if this ComfyUI does not have it."""
        _, answer = await self._call("GET", f"/object_info/{quote(class_type, safe='')}")
        info = _json(answer).get(class_type, {})
        return info if isinstance(info, dict) else {}

    async def upload(self, name: str, path: Path) -> int:
        """Stream a file into the input folder, replacing one of that name. Return ComfyUI's status."""
        subfolder, _, filename = name.rpartition("/")
        form = aiohttp.FormData({"overwrite": "true", "subfolder": subfolder, "type": "input"})
        with await asyncio.to_thread(path.open, "rb") as file:
            form.add_field("image", file, filename=filename, content_type="application/octet-stream")
            timeout_s = ANSWER_TIMEOUT_S + os.fstat(file.fileno()).st_size / SLOWEST_UPLOAD_BYTES_S
            return (await self._call("POST", "/upload/image", form, timeout_s))[0]

    async def view(self, filename: str, subfolder: str, kind: str) -> bytes | None:
        """Return the bytes of an output; None if it is gone."""
        query = {"filename": filename, "subfolder": subfolder, "type": kind}
        status, data = await self._call("GET", "/view", params=query)
        return data if status == 200 else None

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
        params: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        data, headers = body, {}
        if body is not None and not isinstance(body, aiohttp.FormData):
            data, headers = json.dumps(body, ensure_ascii=False).encode(), {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with self._open_session().request(
                method, self.url + path, data=data, headers=headers, params=params, timeout=timeout
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise NoAnswerError(f"{method} {path}: {type(error).__name__}") from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession()  # ignores proxies: they must not see loopback traffic
        return self._session


def _json(answer: bytes) -> dict[str, Any]:
    try:
        body = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _parse(frame: str) -> Event | None:
    try:
        event = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        return None
    kind = event.get("type")
    return event if isinstance(kind, str) and kind not in (SOCKET_OPEN, PREVIEW) else None


def _parse_preview(frame: bytes) -> Event | None:
    """Parse a preview frame: kind 4, length of the metadata, metadata, image (ComfyUI: server.py)."""
    kind, length = int.from_bytes(frame[:4], "big"), int.from_bytes(frame[4:8], "big")
    if kind != PREVIEW_WITH_METADATA or (metadata := _parse_metadata(frame[8 : 8 + length])) is None:
        return None
    if metadata.get("image_type") != "image/jpeg":
        return None
    data = {"image": frame[8 + length :], "node": metadata.get("node_id"), "prompt_id": metadata.get("prompt_id")}
    return {"type": PREVIEW, "data": data}


def _parse_metadata(text: bytes) -> dict[str, Any] | None:
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return metadata if isinstance(metadata, dict) else None


_PARSERS: dict[aiohttp.WSMsgType, Callable[[Any], Event | None]] = {
    aiohttp.WSMsgType.TEXT: _parse,
    aiohttp.WSMsgType.BINARY: _parse_preview,
}


def _ignore(event: Event) -> None:
    del event
