"""Where prompts go, and with which key. The page may read the settings; only its endpoint ever gets the key."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RUNPOD = "https://api.runpod.ai"
DEFAULT_MS_PER_STEP = 600
FORMATS = ("original", "webp", "jpeg")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,63}")
_PATH = re.compile(r"((?:/[A-Za-z0-9_-]+)*/v2/[A-Za-z0-9][A-Za-z0-9_-]*)(?:/(?:run|runsync|status|health))?/?")


class ConfigError(ValueError):
    """A setting that cannot be used; the message says why and what to enter."""


@dataclass(frozen=True)
class Settings:
    """What the dialog shows. ``ms_per_step`` is what the person set; None: learned from finished jobs."""

    endpoint: str = ""
    ms_per_step: int | None = None
    learned_ms_per_step: float | None = None
    previews: bool = False
    keep_copy: bool = True
    sidecars: bool = False
    result_format: str = "original"


def parse_endpoint(text: str) -> str:
    """The base URL behind what a person pastes: an id, a base, or the address of /run."""
    text = text.strip()
    if not text:
        return ""
    if _ID.fullmatch(text):
        return f"{RUNPOD}/v2/{text}"
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise ConfigError("The endpoint is not a valid address.") from None
    if url.scheme not in ("https", "http") or not host:
        raise ConfigError(f"Enter the endpoint's id, or its address such as {RUNPOD}/v2/<ENDPOINT_ID>/run.")
    if url.username or url.password or url.query or url.fragment:
        raise ConfigError("The endpoint's address must have no user, query or fragment; the key has its own field.")
    if url.scheme == "http" and not is_near(host):
        raise ConfigError(
            "A key must not travel unencrypted: use https://, or http:// only to this machine or network."
        )
    path = _PATH.fullmatch(url.path)
    if path is None:
        raise ConfigError("The address must end in /v2/<ENDPOINT_ID> or /v2/<ENDPOINT_ID>/run.")
    shown = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{shown}{f':{port}' if port else ''}{path[1]}"


def is_near(host: str) -> bool:
    """Whether a host is on this machine or its network, where http may do."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private


def origin_of(endpoint: str) -> str:
    """Scheme, host and port: what a key is bound to."""
    url = urlsplit(endpoint)
    return f"{url.scheme}://{url.netloc}"


def check_key(key: str) -> str:
    """A key as it can stand in a header."""
    key = key.strip()
    if not re.fullmatch(r"[\x21-\x7e]{4,512}", key):
        raise ConfigError("The API key has characters that no key has: copy it again, in one piece.")
    return key


class Config:
    """The settings and the key in a folder that no route of ComfyUI serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._settings_path, self._key_path = folder / "settings.json", folder / "key.json"
        self.settings = self._load()

    def _load(self) -> Settings:
        stored = read_private(self._settings_path)
        known = {field.name for field in fields(Settings)}
        try:
            return checked({name: value for name, value in stored.items() if name in known}, Settings())
        except ConfigError:
            return Settings()

    def change(self, changes: dict[str, Any]) -> None:
        """Check and keep new settings."""
        self.settings = checked(changes, self.settings)
        write_private(self._settings_path, asdict(self.settings))

    def learn(self, ms_per_step: float) -> None:
        """Keep what finished jobs teach about the endpoint's speed."""
        self.settings = replace(self.settings, learned_ms_per_step=round(ms_per_step, 1))
        write_private(self._settings_path, asdict(self.settings))

    @property
    def ms_per_step(self) -> float:
        """The person's, else the learned, else a guess."""
        return float(self.settings.ms_per_step or self.settings.learned_ms_per_step or DEFAULT_MS_PER_STEP)

    # -- the key --

    def set_key(self, key: str, endpoint: str) -> None:
        """Keep a key for one origin alone, so that a changed endpoint can never be handed another one's key."""
        if not endpoint:
            raise ConfigError("Enter the endpoint that the key is for.")
        write_private(self._key_path, {"origin": origin_of(endpoint), "key": check_key(key)})

    def forget_key(self) -> None:
        """Remove the stored key."""
        self._key_path.unlink(missing_ok=True)

    def key_for(self, endpoint: str) -> str | None:
        """The key to send there: the stored one if it is bound to that origin, else RUNPOD_API_KEY if that may go."""
        return self._key_and_source(endpoint)[0]

    def key_source(self, endpoint: str) -> str | None:
        """Where the key comes from, ``saved`` or ``environment``; never the key."""
        return self._key_and_source(endpoint)[1]

    def _key_and_source(self, endpoint: str) -> tuple[str | None, str | None]:
        if not endpoint:
            return None, None
        stored, origin = read_private(self._key_path), origin_of(endpoint)
        if stored.get("origin") == origin and isinstance(stored.get("key"), str):
            return stored["key"], "saved"
        environment = os.environ.get("RUNPOD_API_KEY", "").strip()
        if environment and (origin == RUNPOD or _is_loopback_origin(origin)):
            return environment, "environment"
        return None, None


def _is_loopback_origin(origin: str) -> bool:
    host = urlsplit(origin).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked(changes: dict[str, Any], before: Settings) -> Settings:
    """New settings out of old ones and changes."""
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
                raise ConfigError(f"The pictures' format must be one of {', '.join(FORMATS)}.")
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
    """What :func:`write_private` wrote; empty when it cannot be read."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_private(path: Path, value: dict[str, Any]) -> None:
    """Write a file whole or not at all, readable by its owner only (mkstemp makes it so before a byte is in it)."""
    handle, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)
