"""The endpoint, its key and the options. The page may read the settings; the key is sent to its endpoint only."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..remote_sink import part_file
from ..runpod.client import is_loopback

RUNPOD = "https://api.runpod.ai"
DEFAULT_MS_PER_STEP = 600
FORMATS = ("original", "webp", "jpeg")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,63}")
_PATH = re.compile(r"((?:/[A-Za-z0-9_-]+)*/v2/[A-Za-z0-9][A-Za-z0-9_-]*)(?:/(?:run|runsync|status|health))?/?")


class ConfigError(ValueError):
    """A setting cannot be used; the message is the reason and what to enter."""


@dataclass(frozen=True)
class ClientSettings:
    """The settings of the dialog. ``ms_per_step`` is None where it is learned from finished jobs."""

    endpoint: str = ""
    ms_per_step: int | None = None
    learned_ms_per_step: float | None = None
    previews: bool = False
    keep_copy: bool = True
    sidecars: bool = False
    result_format: str = "original"


def parse_endpoint(text: str) -> str:
    """Return the base URL of an endpoint id, a base URL, or the address of /run. Raises ConfigError for others."""
    text = text.strip()
    if not text:
        return ""
    if _ID.fullmatch(text):
        return f"{RUNPOD}/v2/{text}"
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise ConfigError("The endpoint's address is not valid.") from None
    if url.scheme not in ("https", "http") or not host:
        raise ConfigError(f"Enter the endpoint's id, or its address, such as {RUNPOD}/v2/<ENDPOINT_ID>/run.")
    if url.username or url.password or url.query or url.fragment:
        raise ConfigError(
            "The endpoint's address must have no user, query or fragment. Enter the key in its own field."
        )
    if url.scheme == "http" and not is_local_network(host):
        raise ConfigError(
            "The key must not be sent unencrypted. Use https://; http:// works only for this machine or network."
        )
    path = _PATH.fullmatch(url.path)
    if path is None:
        raise ConfigError("The address must end in /v2/<ENDPOINT_ID> or /v2/<ENDPOINT_ID>/run.")
    bracketed = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{bracketed}{f':{port}' if port else ''}{path[1]}"


def is_local_network(host: str) -> bool:
    """Return True if the host is on this machine or its network, where http is allowed."""
    try:
        return is_loopback(host) or ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def origin_of(endpoint: str) -> str:
    """Return scheme, host and port, which a key is bound to."""
    url = urlsplit(endpoint)
    return f"{url.scheme}://{url.netloc}"


def check_key(key: str) -> str:
    """Return the key without surrounding spaces. Raises ConfigError if it cannot be sent in a header."""
    key = key.strip()
    if not re.fullmatch(r"[\x21-\x7e]{4,512}", key):
        raise ConfigError("The API key contains characters that are not allowed. Copy the whole key again.")
    return key


class Config:
    """The settings and the key in a folder that no route of ComfyUI serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._settings_path, self._key_path = folder / "settings.json", folder / "key.json"
        self.settings = self._load()

    def _load(self) -> ClientSettings:
        stored = read_private(self._settings_path)
        known = {field.name for field in fields(ClientSettings)}
        try:
            return with_changes(ClientSettings(), {name: value for name, value in stored.items() if name in known})
        except ConfigError:
            return ClientSettings()

    def change(self, changes: dict[str, Any]) -> None:
        """Check the changes and save the settings. Raises ConfigError."""
        self.settings = with_changes(self.settings, changes)
        write_private(self._settings_path, asdict(self.settings))

    def record_speed(self, ms_per_step: float) -> None:
        """Save the speed that finished jobs had."""
        self.settings = replace(self.settings, learned_ms_per_step=round(ms_per_step, 1))
        write_private(self._settings_path, asdict(self.settings))

    @property
    def ms_per_step(self) -> float:
        """The value set in the dialog, else the learned one, else a default."""
        return float(self.settings.ms_per_step or self.settings.learned_ms_per_step or DEFAULT_MS_PER_STEP)

    # -- the key --

    def set_key(self, key: str, endpoint: str) -> None:
        """Save the key for the endpoint's origin only, so that another endpoint never gets it. Raises ConfigError."""
        if not endpoint:
            raise ConfigError("Enter the endpoint that the key is for.")
        write_private(self._key_path, {"origin": origin_of(endpoint), "key": check_key(key)})

    def forget_key(self) -> None:
        """Remove the stored key."""
        self._key_path.unlink(missing_ok=True)

    def key_for(self, endpoint: str) -> str | None:
        """Return the key for an endpoint: the saved one if bound to its origin, else RUNPOD_API_KEY where allowed."""
        return self._key_and_source(endpoint)[0]

    def key_source(self, endpoint: str) -> str | None:
        """Return the source of the key: ``saved``, ``environment`` or None."""
        return self._key_and_source(endpoint)[1]

    def _key_and_source(self, endpoint: str) -> tuple[str | None, str | None]:
        if not endpoint:
            return None, None
        stored, origin = read_private(self._key_path), origin_of(endpoint)
        if stored.get("origin") == origin and isinstance(stored.get("key"), str):
            return stored["key"], "saved"
        environment = os.environ.get("RUNPOD_API_KEY", "").strip()
        if environment and (origin == RUNPOD or is_loopback(urlsplit(origin).hostname or "")):
            return environment, "environment"
        return None, None


def with_changes(before: ClientSettings, changes: dict[str, Any]) -> ClientSettings:
    """Return the settings with the changes. Raises ConfigError if a value cannot be used."""
    new: dict[str, Any] = {}
    for name, value in changes.items():
        if name == "endpoint":
            if not isinstance(value, str):
                raise ConfigError("The endpoint must be text.")
            new[name] = parse_endpoint(value)
        elif name == "ms_per_step":
            new[name] = _milliseconds(value)
        elif name == "learned_ms_per_step":
            new[name] = float(value) if isinstance(value, (int, float)) and 0 < value < 10**7 else None
        elif name == "result_format":
            if value not in FORMATS:
                raise ConfigError(f"The picture format must be one of {', '.join(FORMATS)}.")
            new[name] = value
        elif name in ("previews", "keep_copy", "sidecars"):
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be true or false.")
            new[name] = value
        else:
            raise ConfigError(f"There is no setting {name[:40]!r}.")
    return replace(before, **new)


def _milliseconds(value: Any) -> int | None:
    if value in (None, ""):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 600_000:
        raise ConfigError("Fake ms per step must be a number from 1 to 600000, or empty to learn it.")
    return round(value)


def read_private(path: Path) -> dict[str, Any]:
    """Return the object that :func:`write_private` wrote; empty if it cannot be read."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_private(path: Path, value: dict[str, Any]) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    with part_file(path.parent, json.dumps(value, indent=1).encode()) as part:
        part.replace(path)
