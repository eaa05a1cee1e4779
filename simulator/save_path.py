"""Names of saved pictures: tokens, subfolder, and the next free `name_00001_` number."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

_CLOCK = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}


def get_save_image_path(
    filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
) -> tuple[str, str, int, str, str]:
    """Return folder, file name, first number, subfolder and the prefix with its tokens filled in."""
    prefix = os.path.normpath(_fill_tokens(filename_prefix, image_width, image_height))
    subfolder, name = os.path.dirname(prefix), os.path.basename(prefix)  # noqa: PTH119, PTH120 - text, not yet a path
    folder = os.path.join(output_dir, subfolder)  # noqa: PTH118
    if not is_inside(output_dir, folder):
        raise Exception(_outside_message(output_dir, folder))
    Path(folder).mkdir(parents=True, exist_ok=True)
    return folder, name, _next_number(folder, name), subfolder, prefix


def is_inside(folder: str, path: str) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(folder)  # noqa: PTH100 - must not follow symlinks


def _fill_tokens(prefix: str, width: int, height: int) -> str:
    if "%" not in prefix:
        return prefix
    prefix = prefix.replace("%width%", str(width)).replace("%height%", str(height))
    now = time.localtime()
    for token, directive in _CLOCK.items():
        prefix = prefix.replace(f"%{token}%", time.strftime(directive, now))
    return prefix


def _next_number(folder: str, name: str) -> int:
    # `name_00012_.png` takes 12, and so does `name_12` without an extension; `name_12.png` takes none, as in ComfyUI.
    taken = re.compile(re.escape(os.path.normcase(name)) + r"_(\d+)(?:_|$)")
    numbers = [int(match[1]) for entry in os.scandir(folder) if (match := taken.match(os.path.normcase(entry.name)))]
    return max(numbers, default=0) + 1


def _outside_message(output_dir: str, folder: str) -> str:
    full = os.path.abspath(folder)  # noqa: PTH100 - shown as ComfyUI shows it
    message = (
        "**** ERROR: Saving image outside the output folder is not allowed."
        f"\n full_output_folder: {full}\n         output_dir: {output_dir}"
        f"\n         commonpath: {os.path.commonpath((output_dir, full))}"
    )
    logging.error(message)
    return message
