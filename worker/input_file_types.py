"""The file types that a job may put into ComfyUI's input folder: media and data, no executable code. Pure."""

from __future__ import annotations

import re

TYPES = {
    "image": "png jpg jpeg jfif webp gif bmp tif tiff avif heic heif jxl tga exr hdr psd svg ppm pgm pbm ico",
    "video": "mp4 m4v mov webm mkv avi mpg mpeg ogv ts wmv flv",
    "audio": "wav mp3 flac ogg oga opus m4a aac aif aiff wma mid midi",
    "latent": "latent safetensors sft",
    "3D": "glb gltf obj mtl ply stl fbx dae usdz usd splat spz ksplat bvh",
    "data": "txt md json jsonl csv tsv yaml yml xml srt vtt ass lrc cube 3dl",
}
EXTENSIONS = frozenset(extension for names in TYPES.values() for extension in names.split())


def type_problem(name: str) -> str | None:
    """Return why a file of this name is not accepted; None if it is."""
    _, dot, extension = name.rpartition(".")
    if dot and extension.lower() in EXTENSIONS:
        return None
    kind = f"a .{extension} file" if dot and re.fullmatch(r"\w{1,12}", extension) else "a file without an extension"
    return f"{kind}; images, video, audio, latents, 3D models and texts are accepted"
