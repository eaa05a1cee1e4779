"""The media type of a file, by its first bytes and its name."""

from __future__ import annotations

import pytest

from worker.results.media_types import media_type

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("lies.txt", PNG, "image/png"),
        ("a.bin", b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        ("a.mp4", b"....", "video/mp4"),
        ("a.mp4", b"\0\0\0 ftypisom", "video/mp4"),
        ("a.bin", b"\0\0\0 ftypavif", "image/avif"),
        ("a.mkv", b"\x1a\x45\xdf\xa3", "video/x-matroska"),
        ("a.opus", b"OggS", "audio/ogg"),
        ("a.flac", b"fLaC", "audio/flac"),
        ("a.glb", b"glTF", "model/gltf-binary"),
        ("a.latent", b"....", "application/octet-stream"),
        ("a.unknown", b"....", "application/octet-stream"),
    ],
)
def test_the_media_type_follows_the_bytes(name, data, kind):
    assert media_type(name, data) == kind
