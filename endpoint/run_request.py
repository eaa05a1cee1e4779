"""The checked body of /run and /runsync; each error names the field."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

DEFAULT_TTL_S = 24 * 3600.0
DAY7_MS = 7 * 24 * 3600 * 1000
EXECUTION_TIMEOUT_MS = (5_000, DAY7_MS)  # RunPod's own bounds (docs: send-requests, execution policies)
TTL_MS = (10_000, DAY7_MS)


class BadRequestError(Exception):
    """The body cannot be used; the message gives the reason. Answered with 400."""


class ForbiddenError(Exception):
    """The body asks for something this endpoint was not started with. Answered with 403."""


@dataclass(frozen=True)
class RunRequest:
    """A checked request. ``body`` is the JSON that the worker gets, without the job's id."""

    body: bytes
    execution_timeout_s: float
    ttl_s: float
    low_priority: bool
    webhook: str | None


def parse_json(raw: bytes) -> Any:
    """Parse JSON by the letter of the standard: UTF-8, no NaN.

    Raises:
        BadRequestError: it is something else.
    """
    try:
        return json.loads(raw.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise BadRequestError("the body is not UTF-8") from None
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None


def _refuse_constant(constant: str) -> NoReturn:
    raise BadRequestError(f"the body holds {constant}, which is not JSON")


def parse_run_request(raw: bytes, execution_timeout_s: float, webhook_hosts: Collection[str]) -> RunRequest:
    """Parse and check a body.

    Args:
        raw: as received.
        execution_timeout_s: used when the body's ``policy`` names none.
        webhook_hosts: ``host`` or ``host:port`` that a ``webhook`` may name.

    Raises:
        BadRequestError: a field is missing or wrong.
        ForbiddenError: the webhook's host is not allowed.
    """
    body = parse_json(raw)
    if not isinstance(body, dict):
        raise BadRequestError("the body must be an object with `input`")
    if "input" not in body:
        raise BadRequestError("`input` is missing")
    policy = _object(body, "policy")
    request = {"input": body["input"]}
    if "s3Config" in body:
        request["s3Config"] = _object(body, "s3Config")
    return RunRequest(
        body=_encoded(request),
        execution_timeout_s=_seconds(policy, "executionTimeout", EXECUTION_TIMEOUT_MS, execution_timeout_s),
        ttl_s=_seconds(policy, "ttl", TTL_MS, DEFAULT_TTL_S),
        low_priority=_flag(policy, "lowPriority"),
        webhook=_webhook(body.get("webhook"), webhook_hosts),
    )


def _encoded(request: dict[str, Any]) -> bytes:
    try:
        return json.dumps(request, allow_nan=False).encode()
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None
    except ValueError:  # 1e999 is JSON, and becomes an infinity
        raise BadRequestError("`input` holds a number that is too large") from None


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name, {})
    if not isinstance(value, dict):
        raise BadRequestError(f"`{name}` must be an object")
    return value


def _seconds(policy: dict[str, Any], name: str, bounds: tuple[int, int], default: float) -> float:
    value = policy.get(name)
    if name not in policy:
        return default
    low, high = bounds
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
    if not whole or not low <= value <= high:  # type: ignore[operator]
        raise BadRequestError(f"`policy.{name}` must be a whole number of milliseconds from {low} to {high}")
    return float(value) / 1000  # type: ignore[arg-type]


def _flag(policy: dict[str, Any], name: str) -> bool:
    value = policy.get(name, False)
    if not isinstance(value, bool):
        raise BadRequestError(f"`policy.{name}` must be true or false")
    return value


def _webhook(value: Any, hosts: Collection[str]) -> str | None:
    """Return the address if its host is allowed: no caller may have this endpoint post to private addresses."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRequestError("`webhook` must be an address")
    try:
        parts = urlsplit(value)
        allowed = parts.scheme in ("http", "https") and parts.netloc in hosts and value.isascii()
    except ValueError:
        allowed = False
    if not allowed:
        raise ForbiddenError(
            "`webhook` names a host this endpoint may not post to; start it with --webhook-host HOST[:PORT]"
        )
    return value
