"""A job's fields: each is checked before the job costs GPU time, and each error names its field."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_to_bytes

from worker.errors import Code, WorkerError
from worker.input_file_types import type_problem
from worker.s3.address import BucketAddress, Keys, bucket_address

ACTIONS = ("run", "ensure", "inspect")
MAX_INPUT_BYTES = 20 * 1000 * 1000  # RunPod's limit of /runsync, the larger of its two (docs: operation-reference)
MAX_FILES = 500
RESULT_TO = ("base64", "s3", "auto")
RESULT_FORMATS = ("original", "webp", "jpeg")
MAX_TIMEOUT_S = 7 * 24 * 3600  # RunPod's longest executionTimeout

FIELDS = (
    "action",
    "prompt",
    "extra_data",
    "partial_execution_targets",
    "repo_list",
    "skip_repo_list",
    "prune",
    "files",
    "result",
    "metadata",
    "preview",
    "timeout_s",
)
OFFICIAL_FIELDS = ("workflow", "images", "comfy_org_api_key")  # runpod-workers/worker-comfyui 5.x

Prompt = dict[str, Any]
JobAnswer = dict[str, Any]


@dataclass(frozen=True)
class InputFile:
    """A file for ComfyUI's input folder: its bytes, and ``name`` as loaders such as LoadImage use it (``sub/pic.png``).

    With ``url`` the bytes are not downloaded yet.
    """

    name: str
    data: bytes = b""
    url: str | None = None


@dataclass(frozen=True)
class ResultOptions:
    """The job's choices for its result files; None means the worker's setting."""

    to: str | None = None
    format: str | None = None
    quality: int | None = None


@dataclass(frozen=True)
class Job:
    """A checked job. ``official`` jobs use worker-comfyui's format, and so do their answers."""

    id: str
    action: str
    prompt: Prompt
    extra_data: dict[str, Any]
    targets: list[str] | None
    repo_list: str
    skip_repo_list: bool
    prune: bool | None
    files: tuple[InputFile, ...]
    result: ResultOptions
    metadata: bool
    bucket: BucketAddress | None
    """The caller's bucket, from RunPod's ``s3Config``."""
    preview: bool
    timeout_s: float
    official: bool

    @property
    def pnginfo(self) -> dict[str, Any]:
        """The metadata that ComfyUI writes into the images beside the prompt, mainly the workflow."""
        found = self.extra_data.get("extra_pnginfo")
        return found if isinstance(found, dict) else {}


def parse_job(event: Mapping[str, Any], default_timeout_s: float) -> Job:
    """Check a job event of RunPod (``{"id", "input", ...}``).

    Raises:
        WorkerError: INVALID_INPUT, with the field's name in the message; PROMPT_INVALID for a prompt that cannot run.
    """
    fields = event.get("input")
    if not isinstance(fields, dict):
        raise _invalid("input", f"must be an object, but is {_kind(fields)}")
    _check_transportable(fields)
    official = "workflow" in fields
    fields = _from_official(fields) if official else fields
    _check_known(fields)
    action = _choice(fields, "action", ACTIONS, "run")
    return Job(
        id=str(event.get("id") or "local"),
        action=action,
        prompt=_prompt(fields.get("prompt")) if action == "run" else {},
        extra_data=_typed(fields, "extra_data", dict, {}),
        targets=_targets(fields.get("partial_execution_targets")),
        repo_list=_repo_list(fields.get("repo_list")),
        skip_repo_list=_typed(fields, "skip_repo_list", bool, False),
        prune=_typed(fields, "prune", bool, None),
        files=tuple(_files(fields.get("files"))),
        result=_result(fields.get("result")),
        metadata=_typed(fields, "metadata", bool, False),
        bucket=_bucket(event.get("s3Config")),
        preview=_typed(fields, "preview", bool, False),
        timeout_s=_timeout(fields.get("timeout_s"), default_timeout_s),
        official=official,
    )


def _invalid(field: str, problem: str, hint: str | None = None) -> WorkerError:
    return WorkerError(Code.INVALID_INPUT, f"`{field}` {problem}", hint, details={"field": field})


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "missing"}
    return names.get(type(value), "a number")


def _check_transportable(fields: dict[str, Any]) -> None:
    """Raise if the fields cannot be sent to ComfyUI as JSON in UTF-8, or are larger than RunPod allows."""
    try:
        size = len(json.dumps(fields, ensure_ascii=False, allow_nan=False).encode())
    except RecursionError:
        raise _invalid("input", "is nested too deeply") from None
    except (TypeError, ValueError):
        path, problem = next(_untransportable(fields, ""), ("input", "is not valid JSON"))
        raise _invalid(path, problem) from None
    if size > MAX_INPUT_BYTES:
        largest = max(fields, key=lambda name: len(json.dumps(fields[name])))
        limit = f"a job may be at most {MAX_INPUT_BYTES / 1e6:.0f} MB"
        raise _invalid(largest, f"is too large: the input is {size / 1e6:.1f} MB as JSON, and {limit}")


def _untransportable(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _untransportable(key, path or "input")
            name = str(key).encode("ascii", "backslashreplace").decode()
            yield from _untransportable(item, f"{path}.{name}" if path else name)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _untransportable(item, f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"is {value}, which is not valid JSON"
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            yield path, "contains half of a surrogate pair, which is not valid Unicode text"
    elif value is not None and not isinstance(value, (bool, int, float)):
        yield path, f"is a {type(value).__name__}, which is not valid JSON"


def _from_official(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert a job from worker-comfyui's format to ours."""
    converted = {name: value for name, value in fields.items() if name not in OFFICIAL_FIELDS}
    if "prompt" in fields:
        raise _invalid("workflow", "and `prompt` are both set", "Send only one of them.")
    converted["prompt"] = fields["workflow"]
    images = fields.get("images") or []
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise _invalid("images", "must be a list of {name, image} objects")
    if images:
        converted["files"] = [{"name": image.get("name"), "b64": image.get("image")} for image in images]
    if key := fields.get("comfy_org_api_key"):
        converted["extra_data"] = {**_typed(fields, "extra_data", dict, {}), "api_key_comfy_org": key}
    return converted


def _check_known(fields: dict[str, Any]) -> None:
    unknown = sorted(str(name) for name in fields if name not in FIELDS)
    if unknown:
        known = ", ".join(FIELDS)
        raise _invalid(unknown[0], "is not a field of a job", f"Known fields: {known}.")


def _typed(fields: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        expected = {dict: "an object", bool: "true or false"}[kind]
        raise _invalid(name, f"must be {expected}, but is {_kind(value)}")
    return value


def _choice(fields: dict[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    value = fields.get(name, default)
    if value not in choices:
        raise _invalid(name, f"is {_quote(value)}", f"Use one of: {', '.join(choices)}.")
    return str(value)


def _quote(value: Any, limit: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + "..."


def _prompt(value: Any) -> Prompt:
    if value is None:
        raise _invalid("prompt", "is missing", "Send the API-format prompt: in ComfyUI, Workflow > Export (API).")
    if isinstance(value, str):
        value = _prompt_from_text(value)
        _check_transportable({"prompt": value})  # \u escapes may contain half a surrogate pair
    if not isinstance(value, dict):
        raise _invalid("prompt", f"must be an object of nodes, but is {_kind(value)}")
    if isinstance(value.get("nodes"), list) or "last_node_id" in value:
        raise _invalid(
            "prompt",
            "is a workflow in the UI's format, which ComfyUI's API cannot run",
            "Export it in the API format: in ComfyUI, Workflow > Export (API).",
        )
    if isinstance(value.get("prompt"), dict) and "class_type" not in value["prompt"]:
        raise _invalid("prompt", "contains a whole /prompt request", "Send only the value of its `prompt` key.")
    if not value:
        raise _invalid("prompt", "has no nodes")
    for node_id, node in value.items():
        _check_node(str(node_id), node, value)
    return value


def _prompt_from_text(text: str) -> Any:
    def reject(constant: str) -> Any:
        raise _invalid("prompt", f"contains {constant}, which is not valid JSON")

    try:
        return json.loads(text, parse_constant=reject)
    except RecursionError:
        raise _invalid("prompt", "is nested too deeply") from None
    except ValueError as error:  # not only JSONDecodeError: a number of more than 4300 digits raises ValueError itself
        raise _invalid("prompt", f"is a string, but not JSON: {error}") from None


def _check_node(node_id: str, node: Any, prompt: Prompt) -> None:
    field = f"prompt.{node_id}"
    if not isinstance(node, dict):
        raise _invalid(field, f"must be a node, but is {_kind(node)}")
    if not isinstance(node.get("class_type"), str):
        raise _invalid(f"{field}.class_type", "must be the name of a node class")
    if not isinstance(node.get("inputs"), dict):
        raise _invalid(f"{field}.inputs", f"must be an object, but is {_kind(node.get('inputs'))}")
    for name, value in node["inputs"].items():
        # ComfyUI 0.3.64 accepts some of these, and then its executing thread ends: every later prompt hangs.
        is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int))
        if is_link and isinstance(value[1], int) and value[0] not in prompt:
            raise WorkerError(
                Code.PROMPT_INVALID,
                f"node {node_id} ({node['class_type']}) links its input {name} to node {value[0]}, which is missing",
                details={"node_id": node_id, "class_type": node["class_type"], "input": name},
            )


def _targets(value: Any) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, (str, int)) for item in value):
        raise _invalid("partial_execution_targets", "must be a list of node ids")
    return [str(item) for item in value]


def _repo_list(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise _invalid("repo_list", f"must be text or a list of lines, but is {_kind(value)}")
    return value


def _timeout(value: Any, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TIMEOUT_S:
        raise _invalid("timeout_s", f"must be a number of seconds up to {MAX_TIMEOUT_S}")
    return float(value)


def _result(value: Any) -> ResultOptions:
    if value is None:
        return ResultOptions()
    if not isinstance(value, dict):
        raise _invalid("result", f"must be an object, but is {_kind(value)}")
    if unknown := sorted(str(name) for name in value if name not in ("to", "format", "quality")):
        raise _invalid(f"result.{unknown[0]}", "is not a field of `result`", "Known: to, format, quality.")
    quality = value.get("quality")
    if quality is not None and (type(quality) is not int or not 1 <= quality <= 100):
        raise _invalid("result.quality", "must be a whole number from 1 to 100")
    return ResultOptions(_one_of("to", RESULT_TO, value), _one_of("format", RESULT_FORMATS, value), quality)


def _one_of(name: str, choices: tuple[str, ...], value: dict[str, Any]) -> str | None:
    chosen = value.get(name)
    if chosen is not None and chosen not in choices:
        raise _invalid(f"result.{name}", f"must be one of {', '.join(choices)}")
    return str(chosen) if chosen else None


def _bucket(value: Any) -> BucketAddress | None:
    """Parse RunPod's ``s3Config``. No message shows its values, because they are credentials."""
    if not value:
        return None
    if not isinstance(value, dict):
        raise _invalid("s3Config", f"must be an object, but is {_kind(value)}")
    for field in ("accessId", "accessSecret", "endpointUrl"):
        if not isinstance(value.get(field), str) or not re.fullmatch(r"[\x21-\x7e]+", value[field]):
            raise _invalid(f"s3Config.{field}", "must be text without spaces")
    name, region = (value.get(field) or None for field in ("bucketName", "region"))
    if any(each is not None and not isinstance(each, str) for each in (name, region)):
        raise _invalid("s3Config.bucketName", "and `region` must be text")
    try:
        return bucket_address(value["endpointUrl"], name, Keys(value["accessId"], value["accessSecret"]), region)
    except ValueError as error:
        raise _invalid("s3Config.endpointUrl", str(error)) from None


def _files(value: Any) -> Iterator[InputFile]:
    if value is None:
        return
    if not isinstance(value, list):
        raise _invalid("files", f"must be a list of {{name, b64}} or {{name, url}} objects, but is {_kind(value)}")
    if len(value) > MAX_FILES:
        raise _invalid("files", f"has {len(value)} entries, but at most {MAX_FILES} are allowed")
    seen: set[str] = set()
    for index, item in enumerate(value):
        field = f"files[{index}]"
        if not isinstance(item, dict):
            raise _invalid(field, f"must be an object, but is {_kind(item)}")
        name = _file_name(item.get("name"), field)
        if name in seen:
            raise _invalid(f"{field}.name", f"is {_quote(name)}, which is also another file's name")
        seen.add(name)
        yield _file(name, item, field)


def _file(name: str, item: dict[str, Any], field: str) -> InputFile:
    url = item.get("url")
    if url is None:
        return InputFile(name, _file_bytes(item.get("b64"), f"{field}.b64"))
    if item.get("b64") is not None:
        raise _invalid(f"{field}.url", "and `b64` are both set", "Send only one of them.")
    if isinstance(url, str) and url.startswith("data:"):
        return InputFile(name, _file_bytes(url, f"{field}.url"))
    if not isinstance(url, str) or not re.match(r"https?://[^/\s]", url) or re.search(r"[\x00-\x20\x7f]", url):
        raise _invalid(f"{field}.url", "must be an https:// address or a data URI")
    return InputFile(name, url=url)


def _file_name(value: Any, field: str) -> str:
    """Return a relative path for ComfyUI's input folder, without `` [input]``, which the mask editor appends."""
    if not isinstance(value, str) or not value.strip():
        raise _invalid(f"{field}.name", "must be a file name")
    parts = PurePosixPath(value.replace("\\", "/").removesuffix(" [input]")).parts
    plain = all(not part.startswith((".", "/")) and not re.search(r'[\x00-\x1f:*?"<>|]', part) for part in parts)
    if not plain or len(parts) == 0 or any(len(part.encode()) > 200 for part in parts):
        raise _invalid(f"{field}.name", f"is {_quote(value)}, which is not a plain relative file name")
    if problem := type_problem(parts[-1]):
        raise _invalid(f"{field}.name", f"is {_quote(value)}, {problem}")
    return "/".join(parts)


def _file_bytes(value: Any, field: str) -> bytes:
    if not isinstance(value, str) or not value:
        raise _invalid(field, "must be the file's bytes in base64")
    header, comma, rest = value.partition(",") if value.startswith("data:") else ("", "", "")
    if comma and not header.endswith(";base64"):
        return unquote_to_bytes(rest)
    text = rest if comma else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(field, "is not valid base64") from None
