"""File extensions by kind of media."""

from __future__ import annotations

VIDEO = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v")
AUDIO = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac")
PICTURES, MODELS_3D = (".png", ".jpg", ".webp", ".gif"), (".glb", ".gltf", ".obj", ".stl", ".ply")
