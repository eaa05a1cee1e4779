"""The Remote Sink: ``POST /remote/save`` writes pictures into ``./remote_results``, a node loads the newest of them.

Part of the pack, and complete alone: this one file dropped into ``custom_nodes/`` is a working sink. Every program that
reaches the port can call the route, so a request's origin, size, names and pictures are all checked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import json
import logging
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from PIL import Image, ImageOps

try:
    import folder_paths
    from server import PromptServer
except ImportError:  # imported by a test or a tool, outside ComfyUI
    folder_paths = PromptServer = None

ROUTE = "/remote/save"
FOLDER = "remote_results"
MAX_BODY_BYTES = 128 * 1024 * 1024
MAX_PICTURE_BYTES = 64 * 1024 * 1024
MAX_PICTURES = 256
MAX_PIXELS = 120_000_000  # decoded, that is 480 MB: more than real pictures have, less than a decompression bomb
EXTENSIONS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif"}

log = logging.getLogger("remote_serverless")


class RejectedError(Exception):
    """A request or a file is rejected: the HTTP status and a sentence for the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message

    def response(self) -> web.Response:
        """Return the error as JSON."""
        return web.json_response({"error": self.message}, status=self.status)


# -- callers ------------------------------------------------------------------------------------------------------


def check_caller(request: web.Request) -> None:
    """Raise RejectedError for other websites, even those that ComfyUI itself allows.

    The browser names a foreign page in ``Origin`` or ``Sec-Fetch-Site``. A page that rebinds its DNS name to this
    machine has that name in ``Host`` instead of this machine's address.
    """
    host = request.headers.get("Host", "")
    if not _is_own_host(host, request):
        raise RejectedError(
            403, f"Host {host[:100]!r} is not an address of this ComfyUI. To allow it, set REMOTE_SERVERLESS_HOSTS."
        )
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise RejectedError(403, "Pages of other origins may not call this.")
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise RejectedError(403, "Pages of other sites may not call this.")


def check_json(request: web.Request) -> None:
    """Raise RejectedError for content types that a plain HTML form can send without a CORS preflight."""
    if request.content_type != "application/json":
        raise RejectedError(415, "Send the body as Content-Type: application/json.")


def _is_own_host(host: str, request: web.Request) -> bool:
    try:
        name = (urlsplit("//" + host).hostname or "").rstrip(".")
    except ValueError:
        return False
    allowed = os.environ.get("REMOTE_SERVERLESS_HOSTS", "").lower().replace(",", " ").split()
    if name == "localhost" or name.endswith(".localhost") or name in allowed:
        return True
    address = parse_address(name)
    own = request.transport.get_extra_info("sockname") if request.transport else None
    return address is not None and (address.is_loopback or bool(own and address == parse_address(str(own[0]))))


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an IP address without its scope, an IPv4-mapped one as IPv4; None if the text is not an address."""
    try:
        address = ipaddress.ip_address(text.split("%", maxsplit=1)[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


async def read_json(request: web.Request, limit: int) -> dict[str, Any]:
    """Read the body as a JSON object. Raises RejectedError, also before more than ``limit`` bytes are in memory."""
    too_large = RejectedError(413, f"The body is larger than {limit // 2**20} MB.")
    if (request.content_length or 0) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.content.iter_chunked(2**18):
        body += chunk
        if len(body) > limit:
            raise too_large
    try:
        value = await asyncio.to_thread(json.loads, bytes(body))
    except (ValueError, RecursionError):
        raise RejectedError(400, "The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise RejectedError(400, "The body must be a JSON object.")
    return value


# -- pictures ----------------------------------------------------------------------------------------------------


def decode_base64(text: Any, limit: int = MAX_PICTURE_BYTES) -> bytes:
    """Decode base64 text or a data URI. Raises RejectedError if it is neither, or too large."""
    if not isinstance(text, str):
        raise RejectedError(400, "`b64` must be the picture's bytes in base64.")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > limit * 4 // 3 + 1024:
        raise RejectedError(413, f"A picture is larger than {limit // 2**20} MB.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RejectedError(400, "`b64` is not valid base64.") from None


def check_picture(data: bytes | Path) -> tuple[str, int, int]:
    """Return extension, width and height from the header. Raises RejectedError before a bomb is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            source = BytesIO(data) if isinstance(data, bytes) else data
            with Image.open(source, formats=tuple(EXTENSIONS)) as picture:
                kind, (width, height) = picture.format or "", picture.size
    except Image.DecompressionBombError:
        raise RejectedError(413, "A picture has more pixels than is safe.") from None
    except Exception as error:  # Pillow's readers raise many types on a broken header
        raise RejectedError(415, "Only PNG, JPEG, WebP and GIF pictures are accepted.") from error
    if width * height > MAX_PIXELS:
        raise RejectedError(413, f"A picture has {width} x {height} pixels, more than is safe.")
    return EXTENSIONS[kind], width, height


# -- files --------------------------------------------------------------------------------------------------------


def results_folder() -> Path:
    """Return ``remote_results`` in ComfyUI's base folder."""
    return Path(folder_paths.base_path) / FOLDER


def plain_name(name: Any, extension: str) -> str:
    """Return a file name without a folder, valid on every system, with the extension of the content."""
    stem = re.split(r"[\\/]", name)[-1] if isinstance(name, str) else ""
    stem = stem.rpartition(".")[0] or stem
    stem = re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", stem).encode("utf-8", "ignore")[:120].decode("utf-8", "ignore")
    stem = stem.strip(". ")
    if not stem or re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", stem.split(".")[0]):
        stem = time.strftime("remote_%Y%m%d-%H%M%S")
    return stem + extension


def write_once(path: Path, data: bytes) -> bool:
    """Write a whole file or none. Return False if the name is taken; no file is ever replaced."""
    with part_file(path.parent, data) as part:
        return finish_part(part, path)


@contextmanager
def part_file(folder: Path, data: bytes = b"") -> Iterator[Path]:
    """Write a private file, which the caller links or renames to its final name; what is left of it is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def finish_part(part: Path, target: Path) -> bool:
    """Give a complete part its name and the usual permissions. Return False if the name is taken."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part.chmod(0o666 & ~_UMASK)  # mkstemp makes it private, unlike ComfyUI's own files
    return link_once(part, target)


def link_once(source: Path, target: Path) -> bool:
    """Hard-link a file, or copy it if the disk has no links. Return False if the name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:
        try:
            with target.open("xb") as file, source.open("rb") as whole:
                shutil.copyfileobj(whole, file)
        except FileExistsError:
            return False
    return True


_UMASK = os.umask(0o022)  # only at import: reading the umask changes it for a moment
os.umask(_UMASK)


def free_names(name: str) -> Any:
    """Yield ``a.png``, ``a_2.png``, ``a_3.png``, ..."""
    path, count = Path(name), 1
    while True:
        yield name if count == 1 else f"{path.stem}_{count}{path.suffix}"
        count += 1


def save_pictures(items: Any, folder: Path) -> list[str]:
    """Check every picture, then write them all and return their names. Raises RejectedError; then none is written."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RejectedError(400, '`images` must be a list of objects: {"images": [{"b64": "...", "filename": "..."}]}.')
    if len(items) > MAX_PICTURES:
        raise RejectedError(413, f"More than {MAX_PICTURES} pictures in one request.")
    checked = []
    for item in items:
        data = decode_base64(item.get("b64"))
        checked.append((plain_name(item.get("filename"), check_picture(data)[0]), data))
    folder.mkdir(parents=True, exist_ok=True)
    return [next(free for free in free_names(name) if write_once(folder / free, data)) for name, data in checked]


# -- the route ----------------------------------------------------------------------------------------------------


async def save(request: web.Request) -> web.Response:
    """Answer ``POST /remote/save``: ``{"images": [{"b64", "filename"?}]}`` with ``{"saved": [names]}``."""
    try:
        check_caller(request)
        check_json(request)
        body = await read_json(request, MAX_BODY_BYTES)
        names = await asyncio.to_thread(save_pictures, body.get("images"), results_folder())
    except RejectedError as error:
        return error.response()
    except OSError as error:
        return web.json_response({"error": f"The pictures cannot be written: {error.strerror}"}, status=507)
    return web.json_response({"saved": names}, dumps=_compact)


_compact = partial(json.dumps, separators=(",", ":"))  # as the README shows the answer


def register() -> None:
    """Open the route unless it is open: the pack and this file alone may both be installed."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    if any(getattr(route, "path", None) == ROUTE for route in server.routes):
        log.info("%s is open already; this copy of the Remote Sink does nothing", ROUTE)
        return
    server.routes.post(ROUTE)(save)


# -- the node -----------------------------------------------------------------------------------------------------


class RemoteResults:
    """The newest pictures of ``./remote_results`` as one batch, newest first."""

    CATEGORY = "image/remote"
    DESCRIPTION = "Loads the newest pictures that came back from the remote endpoint (./remote_results)."
    RETURN_TYPES = ("IMAGE", "INT")
    RETURN_NAMES = ("images", "count")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the only input: the number of pictures."""
        count = {"default": 1, "min": 1, "max": 64, "tooltip": "How many, newest first."}
        return {"required": {"count": ("INT", count)}}

    @classmethod
    def IS_CHANGED(cls, count: int = 1) -> str:  # noqa: N802 - ComfyUI's name
        """Return a value that changes when there is a newer picture."""
        return repr([(path.name, path.stat().st_mtime_ns) for path in newest(count)])

    def load(self, count: int) -> tuple[Any, int]:
        """Load the pictures; later ones are fitted to the size of the first."""
        paths = newest(count)
        if not paths:
            raise FileNotFoundError(
                "There are no pictures in ./remote_results yet. Run a workflow with Remote: ON first."
            )
        pictures = [_open(path) for path in paths]
        size = pictures[0].size
        fitted = [picture if picture.size == size else ImageOps.pad(picture, size) for picture in pictures]
        return _batch(fitted), len(fitted)


def newest(count: int) -> list[Path]:
    """Return the newest pictures of the folder."""
    folder = results_folder()
    paths = folder.iterdir() if folder.is_dir() else ()
    extensions = {*EXTENSIONS.values(), ".jpeg"}
    files = [path for path in paths if path.suffix.lower() in extensions and path.name[0] != "." and path.is_file()]
    return sorted(files, key=lambda path: (-path.stat().st_mtime_ns, path.name))[:count]


def _open(path: Path) -> Image.Image:
    check_picture(path.read_bytes())
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def _batch(pictures: list[Image.Image]) -> Any:
    """Return ComfyUI's IMAGE: a float tensor of batch, height, width, 3."""
    import numpy  # noqa: PLC0415 - only this node needs them, and the sink must start without
    import torch  # noqa: PLC0415

    stacked = numpy.stack([numpy.asarray(picture, dtype=numpy.float32) / 255.0 for picture in pictures])
    return torch.from_numpy(stacked)


NODE_CLASS_MAPPINGS = {"RemoteResults": RemoteResults}
NODE_DISPLAY_NAME_MAPPINGS = {"RemoteResults": "Remote Results"}

register()
