"""Exit 0 when the worker's ComfyUI answers; else 1, with the reason. The image's HEALTHCHECK; needs no package."""

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 10


def comfyui_url() -> str:
    """Return ComfyUI's address: COMFYUI_URL, or the port of the process that the handler started."""
    if url := os.environ.get("COMFYUI_URL"):
        return url.rstrip("/")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # the process has ended
        if "main.py" in words and "--port" in words:
            return f"http://127.0.0.1:{words[words.index('--port') + 1]}"
    sys.exit("ComfyUI does not run")


def main() -> None:
    """Ask ComfyUI for its system stats."""
    url = comfyui_url()
    try:
        with urllib.request.urlopen(f"{url}/system_stats", timeout=TIMEOUT_S) as answer:  # noqa: S310 - http, loopback
            answer.read()
    except (OSError, urllib.error.URLError) as error:
        sys.exit(f"ComfyUI at {url} does not answer: {error}")


if __name__ == "__main__":
    main()
