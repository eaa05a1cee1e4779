"""The bucket for large inputs: RunPod's own variables, or what Remote Config keeps in a file of the owner's alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..s3 import Bucket
from .config import ConfigError, is_near, origin_of, read_private, write_private

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
    """What is saved goes before the environment. The keys are never told; nor is the secret ever sent."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "bucket.json"

    def change(self, typed: Any) -> None:
        """Keep a bucket; keys that are left empty stay as they are, for the address that they were entered for.

        Raises:
            ConfigError: why it cannot be kept.
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
        """Remove the saved bucket, its keys included."""
        self._path.unlink(missing_ok=True)

    def bucket(self, typed: Any = None) -> Bucket | None:
        """The bucket to use, or the one that would be with what is typed; None where none is set.

        Raises:
            ConfigError: what is set cannot be used.
        """
        if isinstance(typed, dict) and any(typed.values()):
            return _bucket(self._with_saved_keys(_strings(typed)))
        values, source = self._values()
        return _bucket(values) if source else None

    def told(self) -> dict[str, Any]:
        """What the page may know."""
        values, source = self._values()
        problem = ""
        try:
            self.bucket()
        except ConfigError as error:
            problem = str(error)
        shown = {name: value for name, value in values.items() if name not in _KEYS}
        return {**shown, "configured": bool(source) and not problem, "source": source, "problem": problem}

    def _values(self) -> tuple[dict[str, str], str | None]:
        saved = _strings(read_private(self._path))
        if any(saved.values()):
            return saved, "saved"
        found = {name: os.environ.get(variable, "").strip() for name, variable in VARIABLES.items()}
        return found, "environment" if found["address"] else None


def _strings(values: Any) -> dict[str, str]:
    given = values if isinstance(values, dict) else {}
    return {name: str(given.get(name) or "").strip() for name in FIELDS}


def _bucket(values: dict[str, str]) -> Bucket:
    for name, what in (("address", "address"), ("access_key_id", "access key id"), ("secret_access_key", "secret key")):
        if not values[name]:
            raise ConfigError(f"The bucket's {what} is missing ({VARIABLES[name]}).")
    if any(not value.isascii() or not value.isprintable() or len(value) > 500 for value in values.values()):
        raise ConfigError("The bucket's settings have characters that none has: copy them again, each in one piece.")
    try:
        bucket = Bucket.of(*(values[name] for name in FIELDS))
    except ValueError as error:
        raise ConfigError(f"The bucket's address {error}") from None
    url = urlsplit(bucket.base)
    if url.scheme == "http" and not is_near(url.hostname or ""):
        raise ConfigError("Files must not travel unencrypted: use https:// for the bucket.")
    return bucket
