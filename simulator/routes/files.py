"""The routes of pictures: /upload/image, /upload/mask and /view."""

from __future__ import annotations

import json
import mimetypes
import os
from collections.abc import Callable
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import folder_paths
from save_path import is_inside

if TYPE_CHECKING:
    from server import PromptServer

Saver: TypeAlias = Callable[[Any, Path], object]

# A browser must not run an uploaded or rendered file.
_DOWNLOAD_ONLY = {"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}


class _StatusError(Exception):
    """Becomes an answer with this status and an empty body."""

    def __init__(self, status: int) -> None:
        self.status = status


def add_routes(server: PromptServer) -> None:
    @server.routes.post("/upload/image")
    async def upload_image(request: web.Request) -> web.Response:
        return _upload(await request.post(), lambda image, path: path.write_bytes(image.file.read()))

    @server.routes.post("/upload/mask")
    async def upload_mask(request: web.Request) -> web.Response:
        post = await request.post()
        return _upload(post, lambda image, path: _save_mask(image, json.loads(str(post["original_ref"])), path))

    @server.routes.get("/view")
    async def view(request: web.Request) -> web.StreamResponse:
        if "filename" not in request.query:
            return web.Response(status=404)
        try:
            path = _find(request.query["filename"], request.query.get("type", "output"), request.query.get("subfolder"))
        except _StatusError as error:
            return web.Response(status=error.status)
        return _show(path, request) if path.is_file() else web.Response(status=404)


def _upload(post: Any, save: Saver) -> web.Response:
    image = post.get("image")
    kind = post.get("type", "input")
    folder = folder_paths.get_directory_by_type(kind)
    if folder is None:
        raise ValueError(f"No folder of type {kind!r}")  # ComfyUI answers 500 as well
    if not image or not image.file or not image.filename:
        return web.Response(status=400)
    subfolder = post.get("subfolder", "")
    target = Path(os.path.abspath(os.path.join(folder, os.path.normpath(subfolder), image.filename)))  # noqa: PTH100, PTH118
    if not is_inside(folder, str(target)):
        return web.Response(status=400)
    target.parent.mkdir(parents=True, exist_ok=True)
    overwrite = post.get("overwrite") in {"true", "1"}
    if not overwrite:
        target = _free_or_same(target, image)
    if overwrite or not target.exists():
        save(image, target)
    return web.json_response({"name": target.name, "subfolder": subfolder, "type": kind})


def _free_or_same(target: Path, image: Any) -> Path:
    """Return the first of `x.png`, `x (1).png`, ... that is not taken, or whose file holds the same bytes."""
    uploaded = image.file.read()
    image.file.seek(0)
    numbered = (target.with_name(f"{target.stem} ({number}){target.suffix}") for number in count(1))
    return next(path for path in chain([target], numbered) if not path.exists() or path.read_bytes() == uploaded)


def _save_mask(image: Any, reference: dict[str, Any], path: Path) -> None:
    """Save the original picture with the alpha channel of the uploaded one."""
    kind = reference.get("type", "output")
    original_path = _find(reference["filename"], kind, reference.get("subfolder") or None)
    if not original_path.is_file():
        return
    with Image.open(original_path) as original, Image.open(image.file) as mask:
        info = PngInfo()
        for key, text in getattr(original, "text", {}).items():
            info.add_text(key, text)
        masked = original.convert("RGBA")
        masked.putalpha(mask.convert("RGBA").getchannel("A"))
        masked.save(path, compress_level=4, pnginfo=info)


def _find(filename: str, kind: str, subfolder: str | None) -> Path:
    filename, folder = folder_paths.annotated_filepath(filename)
    if not filename or filename[0] == "/" or ".." in filename:
        raise _StatusError(400)
    folder = folder or folder_paths.get_directory_by_type(kind)
    if folder is None:
        raise _StatusError(400)
    if subfolder is not None:
        inner = str(Path(folder, subfolder))
        if not is_inside(folder, inner):
            raise _StatusError(403)
        folder = inner
    return Path(folder, Path(filename).name)


def _show(path: Path, request: web.Request) -> web.StreamResponse:
    shown_name = {"Content-Disposition": f'filename="{path.name}"'}
    channel = request.query.get("channel", "rgba")
    if "preview" in request.query:
        kind, body = _preview(path, request.query["preview"], request.query.get("channel", ""))
        return web.Response(body=body, content_type=kind, headers=shown_name)
    if channel in {"rgb", "a"}:
        return web.Response(body=_channel(path, channel), content_type="image/png", headers=shown_name)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    kind = "application/octet-stream" if kind in _DOWNLOAD_ONLY else kind
    return web.FileResponse(path, headers={**shown_name, "Content-Type": kind})


def _preview(path: Path, spec: str, channel: str) -> tuple[str, bytes]:
    words = spec.split(";")
    kind = words[0] if words[0] in {"webp", "jpeg"} and "a" not in channel else "webp"
    quality = int(words[-1]) if words[-1].isdigit() else 90
    with Image.open(path) as image:
        image.load()
        shown = image.convert("RGB") if kind == "jpeg" or channel == "rgb" else image
        buffer = BytesIO()
        shown.save(buffer, format=kind, quality=quality)
    return f"image/{kind}", buffer.getvalue()


def _channel(path: Path, channel: str) -> bytes:
    buffer = BytesIO()
    with Image.open(path) as image:
        if channel == "rgb":
            image.convert("RGB").save(buffer, format="PNG")
        else:
            alpha = image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255)
            black = Image.new("RGBA", image.size)
            black.putalpha(alpha)
            black.save(buffer, format="PNG")
    return buffer.getvalue()
