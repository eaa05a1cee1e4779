"""The media type of a file: by its first bytes if they are distinctive, else by its name. Pure.

The table is our own because the system's differs between container images, and lacks half of ComfyUI's formats.
"""

from __future__ import annotations

HEAD_BYTES = 64

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"fLaC", "audio/flac"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"glTF", "model/gltf-binary"),
)
_BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"qt  ": "video/quicktime", b"M4A ": "audio/mp4"}
_NAMES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "avif": "image/avif",
    "jxl": "image/jxl",
    "svg": "image/svg+xml",
    "exr": "image/x-exr",
    "hdr": "image/vnd.radiance",
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "avi": "video/x-msvideo",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "m4a": "audio/mp4",
    "aac": "audio/aac",
    "glb": "model/gltf-binary",
    "gltf": "model/gltf+json",
    "obj": "model/obj",
    "stl": "model/stl",
    "ply": "model/ply",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "json": "application/json",
    "yaml": "application/yaml",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "zip": "application/zip",
    "pdf": "application/pdf",
}
EXTENSIONS = {"image/webp": ".webp", "image/jpeg": ".jpg"}
"""Of the formats that images are converted to."""


def media_type(filename: str, head: bytes) -> str:
    """Return the media type of a file, from its name and its first :data:`HEAD_BYTES`."""
    by_name = _NAMES.get(filename.rpartition(".")[2].lower())
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return by_name if by_name and kind == "video/webm" else kind  # Matroska has many uses
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"WAVE"):
        return "image/webp" if head[8:12] == b"WEBP" else "audio/wav"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12]) or by_name or "video/mp4"
    return by_name or "application/octet-stream"
