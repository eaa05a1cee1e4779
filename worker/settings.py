"""Settings, read once from the environment; a bad value ends the start with a message that names its variable."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from worker.net.hosts import DEFAULT_CIVITAI, DEFAULT_HF
from worker.s3.address import LONGEST_LINK_S, BucketAddress, Keys, bucket_address

REPO_ROOT = Path(__file__).resolve().parent.parent
SIMULATOR_PATH = REPO_ROOT / "simulator"
IMAGE_COMFYUI_PATH = Path("/comfyui")
NETWORK_VOLUME = Path("/runpod-volume")  # where RunPod mounts it in serverless (docs: storage/network-volumes)


class SettingsError(ValueError):
    """An environment variable has a bad value; the message names it."""


class Setting(NamedTuple):
    """One environment variable: its name, parser, default and purpose."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return known[value.strip().lower()]
    except KeyError:
        raise ValueError("must be 1 or 0 (or true, false, yes, no, on, off)") from None


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        number = float(value)
        if not low <= number <= high:
            raise ValueError(f"must be between {low:g} and {high:g}")
        return number

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError(f"must be between {low} and {high}")
        return number

    return parse


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address")
    if parts.username or parts.password:
        raise ValueError("must not contain a user name or password")
    return value.rstrip("/")


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return value.lower()

    return parse


def _path(value: str) -> Path:
    return Path(value).expanduser().absolute()


def _words(value: str) -> tuple[str, ...]:
    return tuple(value.replace(",", " ").split())


def _paths(value: str) -> tuple[Path, ...]:
    return tuple(_path(part) for part in value.split(os.pathsep) if part)


def _arguments(value: str) -> tuple[str, ...]:
    return tuple(shlex.split(value))


def _log_level(value: str) -> str:
    level = value.upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return level


SETTINGS = (
    Setting("COMFYUI_PATH", _path, None, "the ComfyUI checkout; by default /comfyui or ./ComfyUI"),
    Setting("COMFYUI_PYTHON", _text, None, "interpreter that runs ComfyUI; its checkout's venv, else the worker's own"),
    Setting("COMFYUI_URL", _url, None, "address of a running ComfyUI, which the worker then does not supervise"),
    Setting("COMFYUI_ARGS", _arguments, (), "additional flags for ComfyUI"),
    Setting("COMFYUI_START_TIMEOUT_S", _number(1, 3600), 300.0, "how long ComfyUI may take to answer"),
    Setting("JOB_TIMEOUT_S", _number(1, 7 * 24 * 3600), 570.0, "deadline of a job; below RunPod's 600 s default"),
    Setting("MODELS_DIR", _path, None, "the models folder; by default ComfyUI's or the network volume's models/"),
    Setting("PRUNE", _flag, True, "delete unlisted models after the listed ones have been downloaded"),
    Setting("PRUNE_ROOTS", _paths, (), "shared models folders in which pruning is allowed"),
    Setting("KEEP_MODELS", _words, (), "globs of file names that are never pruned"),
    Setting("KEEP_GB", _number(0, 100_000), 0.0, "keep the most recently used unlisted models up to this many GB"),
    Setting("PRUNE_DRY_RUN", _flag, False, "log what would be pruned and delete nothing"),
    Setting("ALLOW_PICKLE", _flag, False, "accept .ckpt, .pt and .bin, which can run code when loaded"),
    Setting("CIVITAI_TOKEN", _text, None, "sent only to Civitai's own hosts, as a header"),
    Setting("HF_TOKEN", _text, None, "sent only to Hugging Face's own hosts, as a header"),
    Setting("CIVITAI_URL", _url, DEFAULT_CIVITAI, "a mirror, or a test's loopback server"),
    Setting("HF_URL", _url, DEFAULT_HF, "a mirror, or a test's loopback server"),
    Setting("MODEL_HOSTS", _words, (), "further hosts allowed in links"),
    Setting("DOWNLOAD_CONNECTIONS", _integer(1, 64), 16, "connections over all files together"),
    Setting("RESULT_LIMIT_MB", _number(0.001, 1000), 9.5, "largest answer, encoded; RunPod's /run allows 10 MB"),
    Setting("RESULT_TO", _one_of("base64", "s3", "auto"), "auto", "where results go unless the job chooses"),
    Setting("RESULT_FORMAT", _one_of("original", "webp", "jpeg"), "original", "of images, unless the job chooses"),
    Setting("RESULT_QUALITY", _integer(1, 100), 90, "of WebP and JPEG, unless the job chooses"),
    Setting("BUCKET_ENDPOINT_URL", _url, None, "S3-compatible store for results; may include the bucket's name"),
    Setting("BUCKET_ACCESS_KEY_ID", _text, None, "of the bucket"),
    Setting("BUCKET_SECRET_ACCESS_KEY", _text, None, "of the bucket"),
    Setting("BUCKET_NAME", _text, None, "the bucket, unless its address includes it"),
    Setting("BUCKET_REGION", _text, None, "of the bucket, unless its address includes it"),
    Setting("BUCKET_PREFIX", _text, "", "folder in the bucket for the jobs' folders"),
    Setting("BUCKET_PUBLIC_URL", _url, None, "the bucket's public address; links then never expire"),
    Setting("BUCKET_LINK_LIFE_S", _integer(60, LONGEST_LINK_S), LONGEST_LINK_S, "how long a signed link works"),
    Setting("INPUT_LIMIT_MB", _number(0.001, 1_000_000), 2048.0, "largest total of a job's `files`, linked ones too"),
    Setting("PRIVATE_HOSTS", _words, (), "hosts that `files` and `s3Config` may reach although they are not public"),
    Setting("COMFY_ORG_API_KEY", _text, None, "for Comfy's paid API nodes; a job's own key overrides it"),
    Setting("LOG_LEVEL", _log_level, "INFO", "DEBUG, INFO, WARNING or ERROR"),
)

SECRETS = ("CIVITAI_TOKEN", "HF_TOKEN", "BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY", "COMFY_ORG_API_KEY")


@dataclass(frozen=True)
class Settings:
    """The worker's settings; field names are the variables' in lower case. Build with :meth:`from_environ`."""

    comfyui_path: Path
    comfyui_python: str
    comfyui_url: str | None
    comfyui_args: tuple[str, ...]
    comfyui_start_timeout_s: float
    job_timeout_s: float
    models_dir: Path
    prune: bool
    prune_roots: tuple[Path, ...]
    keep_models: tuple[str, ...]
    keep_gb: float
    prune_dry_run: bool
    allow_pickle: bool
    civitai_token: str | None
    hf_token: str | None
    civitai_url: str
    hf_url: str
    model_hosts: tuple[str, ...]
    download_connections: int
    result_limit_mb: float
    result_to: str
    result_format: str
    result_quality: int
    bucket_endpoint_url: str | None
    bucket_access_key_id: str | None
    bucket_secret_access_key: str | None
    bucket_name: str | None
    bucket_region: str | None
    bucket_prefix: str
    bucket_public_url: str | None
    bucket_link_life_s: int
    input_limit_mb: float
    private_hosts: tuple[str, ...]
    comfy_org_api_key: str | None
    log_level: str
    simulated: bool
    """No ComfyUI was found, so the built-in simulator stands in for it (local runs only)."""

    def __repr__(self) -> str:
        shown = {k: ("***" if k.upper() in SECRETS and v else v) for k, v in vars(self).items()}
        return f"Settings({shown})"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never be printed."""
        return tuple(value for name in SECRETS if (value := getattr(self, name.lower())))

    @property
    def bucket(self) -> BucketAddress | None:
        """The operator's bucket; None if not configured."""
        return _bucket(vars(self))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the variables in :data:`SETTINGS`.

        Raises:
            SettingsError: a value is bad; the message names the variable and never shows a secret's value.
        """
        environ = os.environ if environ is None else environ
        values = {setting.name.lower(): _read(setting, environ) for setting in SETTINGS}
        path, simulated = _find_comfyui(values["comfyui_path"], values["comfyui_url"])
        values["comfyui_path"] = path
        values["comfyui_python"] = values["comfyui_python"] or _find_python(path)
        values["models_dir"] = values["models_dir"] or _find_models_dir(path, simulated)
        settings = cls(**values, simulated=simulated)
        bucket = settings.bucket  # raises if incomplete: now, not when a result is lost
        if settings.result_to == "s3" and not bucket:
            raise SettingsError("RESULT_TO: is s3, but BUCKET_ENDPOINT_URL is not set")
        return settings


def _read(setting: Setting, environ: Mapping[str, str]) -> Any:
    raw = environ.get(setting.name, "").strip()
    if not raw:
        return setting.default
    try:
        return setting.parse(raw)
    except ValueError as error:
        shown = "its value" if setting.name in SECRETS else f"{raw!r}"
        raise SettingsError(f"{setting.name}: {shown} cannot be used: {error}") from None


def _bucket(values: Mapping[str, Any]) -> BucketAddress | None:
    """Build the bucket from its variables. If some are missing, every result would be lost, so the start ends here."""
    needed = ("bucket_endpoint_url", "bucket_access_key_id", "bucket_secret_access_key")
    if not any(values[name] for name in (*needed, "bucket_name")):
        return None
    for name in needed:
        if not values[name]:
            raise SettingsError(f"{name.upper()}: is missing, but other variables of the bucket are set")
    options = {name: values[f"bucket_{name}"] for name in ("prefix", "public_url", "link_life_s")}
    keys = Keys(values["bucket_access_key_id"], values["bucket_secret_access_key"])
    endpoint, name = values["bucket_endpoint_url"], values["bucket_name"]
    try:
        return bucket_address(endpoint, name, keys, values["bucket_region"], **options)
    except ValueError as error:
        variable = "BUCKET_NAME" if "names no bucket" in str(error) else "BUCKET_ENDPOINT_URL"
        problem = "is missing, and BUCKET_ENDPOINT_URL" if variable == "BUCKET_NAME" else f"{endpoint!r}"
        raise SettingsError(f"{variable}: {problem} {error}") from None


def _find_comfyui(configured: Path | None, url: str | None) -> tuple[Path, bool]:
    """Return ComfyUI's checkout, and True if it is the simulator.

    A configured path must contain ComfyUI: a fallback to the simulator would hide a typing mistake.
    """
    if configured:
        if not (configured / "main.py").is_file() and not url:
            raise SettingsError(f"COMFYUI_PATH: {str(configured)!r} has no main.py; set it to a ComfyUI checkout")
        return configured, configured == SIMULATOR_PATH
    for candidate in (IMAGE_COMFYUI_PATH, REPO_ROOT / "ComfyUI"):
        if (candidate / "main.py").is_file():
            return candidate, False
    return SIMULATOR_PATH, not url


def _find_python(comfyui_path: Path) -> str:
    for venv in (".venv", "venv"):
        candidate = comfyui_path / venv / "bin" / "python"
        if candidate.exists():
            return str(candidate)
    return sys.executable


def _find_models_dir(comfyui_path: Path, simulated: bool) -> Path:
    if NETWORK_VOLUME.is_dir():
        return NETWORK_VOLUME / "models"
    return simulator_home() / "models" if simulated else comfyui_path / "models"


def simulator_home() -> Path:
    """Return the folder for the simulator's models, inputs and outputs, outside its code."""
    return REPO_ROOT / ".simulator"
