"""The parts of an HTTP answer that decide its meaning. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from worker.net.redact import plain


@dataclass(frozen=True)
class HttpAnswer:
    """Status, headers and the beginning of the body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    """The first bytes; only read if the answer is not a file."""
    with_token: bool = False

    @property
    def content_type(self) -> str:
        """Media type without its parameters, lower case, safe to display."""
        return plain(self.headers.get("Content-Type", "").split(";")[0].strip().lower(), 80)

    @property
    def retry_after_s(self) -> float | None:
        """Retry-After in seconds, from a number or a date; None if absent or unreadable."""
        value = self.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", value):
            return float(value)
        try:
            when = parsedate_to_datetime(value)
            when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
            return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())
        except (TypeError, ValueError, OverflowError):
            return None

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is not one."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def message(self) -> str:
        """The server's own error message for people; empty if it sent none."""
        text = self.json.get("message") or self.json.get("error") or self.headers.get("X-Error-Message")
        if isinstance(text, dict):
            text = text.get("message")
        if text is None and self.content_type == "text/plain":
            text = self.body.decode(errors="replace")
        return plain(str(text)) if text else ""

    @property
    def is_page(self) -> bool:
        """True for an HTML page: a login form or a firewall's notice, never a model file."""
        return "html" in self.content_type or self.body[:512].lstrip()[:1] == b"<"
