"""The client key: where it comes from, and comparing it without telling by time how much of a guess was right."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path
from typing import NamedTuple

KEY_VARIABLE = "RUNPOD_API_KEY"
PROTOCOL = "runpod-events"
PROTOCOL_KEY_PREFIX = "bearer."


class Key(NamedTuple):
    """The key, and whether it was made just now, so that it must be shown this once."""

    value: str
    is_new: bool


class KeyFileError(Exception):
    """The key's file cannot be used; the message names it."""


def client_key(environ: MutableMapping[str, str], file: Path) -> Key:
    """The key of ``RUNPOD_API_KEY``, taken out of the environment so that no child inherits it; else the file's.

    Raises:
        KeyFileError: the file cannot be read or made, or others can read it.
    """
    if given := environ.pop(KEY_VARIABLE, "").strip():
        return Key(given, False)
    try:
        return _kept_key(file)
    except OSError as error:
        raise KeyFileError(f"{file}: {error.strerror}") from error


def _kept_key(file: Path) -> Key:
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if file.stat().st_mode & 0o077:
            raise KeyFileError(f"{file} can be read by others than its owner; chmod 600 it, or remove it") from None
        if not (kept := file.read_text().strip()):
            raise KeyFileError(f"{file} is empty; remove it, and a key is made") from None
        return Key(kept, False)
    key = f"local_{secrets.token_hex(24)}"
    with os.fdopen(descriptor, "w") as made:
        made.write(key + "\n")
    return Key(key, True)


def same(given: str, wanted: str) -> bool:
    """Compare in constant time; a header may hold any bytes."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode())


def has_bearer(header: str, key: str) -> bool:
    """Whether ``Authorization`` is ``Bearer <key>``."""
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and same(given.strip(), key)


def has_protocol_key(header: str, key: str) -> bool:
    """Whether ``Sec-WebSocket-Protocol`` offers ``bearer.<key>``: a browser can set no other header there."""
    offered = [name.strip() for name in header.split(",")]
    return any(name.startswith(PROTOCOL_KEY_PREFIX) and same(name[len(PROTOCOL_KEY_PREFIX) :], key) for name in offered)
