"""The client key: read or made at the start, and compared in constant time."""

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


class ClientKey(NamedTuple):
    """The key; ``is_new`` if it was made at this start, and is to be shown this once."""

    value: str
    is_new: bool


class KeyFileError(Exception):
    """The key's file cannot be used; the message names it."""


def client_key(environ: MutableMapping[str, str], file: Path) -> ClientKey:
    """Take ``RUNPOD_API_KEY`` out of the environment, so that no child inherits it; unset, use the key in the file.

    Raises:
        KeyFileError: the file cannot be read or made, or others can read it.
    """
    if given := environ.pop(KEY_VARIABLE, "").strip():
        return ClientKey(given, False)
    try:
        return _key_in_file(file)
    except OSError as error:
        raise KeyFileError(f"{file}: {error.strerror}") from error


def _key_in_file(file: Path) -> ClientKey:
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if file.stat().st_mode & 0o077:
            raise KeyFileError(f"{file} can be read by others than its owner; chmod 600 it, or remove it") from None
        if not (key := file.read_text().strip()):
            raise KeyFileError(f"{file} is empty; remove it, and a key is made") from None
        return ClientKey(key, False)
    key = f"local_{secrets.token_hex(24)}"
    with os.fdopen(descriptor, "w") as new_file:
        new_file.write(key + "\n")
    return ClientKey(key, True)


def is_same(given: str, expected: str) -> bool:
    """Compare in constant time; ``given`` may hold any bytes, as headers do."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode())


def has_bearer(header: str, key: str) -> bool:
    """Return True if ``Authorization`` is ``Bearer <key>``."""
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and is_same(given.strip(), key)


def has_protocol_key(header: str, key: str) -> bool:
    """Return True if ``Sec-WebSocket-Protocol`` offers ``bearer.<key>``: a browser can set no other header there."""
    offered = [name.strip() for name in header.split(",")]
    keys = [name.removeprefix(PROTOCOL_KEY_PREFIX) for name in offered if name.startswith(PROTOCOL_KEY_PREFIX)]
    return any(is_same(offered_key, key) for offered_key in keys)
