"""The bucket for large inputs, from RunPod's own variables or from the private file of Remote Config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..s3 import SignedBucket
from .config import ConfigError, is_local_network, origin_of, read_private, write_private

VARIABLES = {
    "address": "BUCKET_ENDPOINT_URL",
    "name": "BUCKET_NAME",
    "region": "BUCKET_REGION",
    "access_key_id": "BUCKET_ACCESS_KEY_ID",
    "secret_access_key": "BUCKET_SECRET_ACCESS_KEY",
}
FIELDS = tuple(VARIABLES)
_KEYS = FIELDS[3:]


class BucketConfig:
    """Saved settings override the environment. Keys are never returned; the secret never leaves this machine."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "bucket.json"

    def change(self, typed: Any) -> None:
        """Save a bucket. Empty keys keep the saved ones if the address is still of the same origin.

        Raises:
            ConfigError: the bucket cannot be used.
        """
        values = self._with_saved_keys(_strings(typed))
        _bucket(values)
        write_private(self._path, values)

    def _with_saved_keys(self, values: dict[str, str]) -> dict[str, str]:
        saved = _strings(read_private(self._path))
        if not any(values[name] for name in _KEYS) and origin_of(saved["address"]) == origin_of(values["address"]):
            return {**values, **{name: saved[name] for name in _KEYS}}
        return values

    def forget(self) -> None:
        """Remove the saved bucket and its keys."""
        self._path.unlink(missing_ok=True)

    def bucket(self, typed: Any = None) -> SignedBucket | None:
        """Return the bucket to use, or the one in ``typed``; None if none is set.

        Raises:
            ConfigError: the bucket cannot be used.
        """
        if isinstance(typed, dict) and any(typed.values()):
            return _bucket(self._with_saved_keys(_strings(typed)))
        values, source = self._values()
        return _bucket(values) if source else None

    def public(self) -> dict[str, Any]:
        """Return the settings without the keys."""
        values, source = self._values()
        problem = ""
        try:
            self.bucket()
        except ConfigError as error:
            problem = str(error)
        without_keys = {name: value for name, value in values.items() if name not in _KEYS}
        return {**without_keys, "configured": bool(source) and not problem, "source": source, "problem": problem}

    def _values(self) -> tuple[dict[str, str], str | None]:
        saved = _strings(read_private(self._path))
        if any(saved.values()):
            return saved, "saved"
        found = {name: os.environ.get(variable, "").strip() for name, variable in VARIABLES.items()}
        return found, "environment" if found["address"] else None


def _strings(values: Any) -> dict[str, str]:
    given = values if isinstance(values, dict) else {}
    return {name: str(given.get(name) or "").strip() for name in FIELDS}


def _bucket(values: dict[str, str]) -> SignedBucket:
    for name, what in (("address", "address"), ("access_key_id", "access key id"), ("secret_access_key", "secret key")):
        if not values[name]:
            raise ConfigError(f"The bucket's {what} is missing ({VARIABLES[name]}).")
    if any(not value.isascii() or not value.isprintable() or len(value) > 500 for value in values.values()):
        raise ConfigError("The bucket's settings contain characters that are not allowed. Copy each of them again.")
    try:
        bucket = SignedBucket.of(*(values[name] for name in FIELDS))
    except ValueError as error:
        raise ConfigError(f"The bucket's address {error}") from None
    url = urlsplit(bucket.base)
    if url.scheme == "http" and not is_local_network(url.hostname or ""):
        raise ConfigError("Files must not be sent unencrypted. Use https:// for the bucket.")
    return bucket
