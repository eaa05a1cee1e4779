"""Redaction of secrets in logs and messages: for text, for addresses, and as a filter for log handlers.

This is the second line of defence. The first: a token is sent only in a header, never in an address.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode, urlsplit

HIDDEN = "***"
SHOWN_PARAMETERS = ("type", "format", "size", "fp", "quantType", "fileId", "modelVersionId", "version")
"""The query fields of a Civitai link; any other field may be a signature and is dropped."""

_PAIR = re.compile(
    r"""(?ix) (?<![a-z0-9])
    ( (?: [a-z_\-]*token | api[_\-]?key | x-amz-[a-z\-]+ | signature | sig | key-pair-id | policy | awsaccesskeyid ) )
    ( ["']? \s* [=:] \s* ["']? )
    (?! \*\*\* ) [^&\s"'<>,;)}]+"""
)
_HEADER = re.compile(r"(?i)(authorization[\"']?\s*[=:]\s*[\"']?)(?:(?:bearer|basic)\s+)?[^\s\"',;)}]+")
_BEARER = re.compile(r"(?i)\b(bearer\s+)(?!\*\*\*)[\w.~+/=-]{6,}")
_USERINFO = re.compile(r"(?i)(://)[^/\s@?#]+@")
_MARKERS = ("@", "authorization", "bearer", "token", "key", "x-amz-", "sig", "policy")
"""Text without any of these matches no pattern; this check takes a twentieth of the time."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` without the given secrets and whatever looks like a token, a signature or a password."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    lower = text.lower()
    if text.isascii() and not any(marker in lower for marker in _MARKERS):
        return text
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _PAIR.sub(rf"\1\2{HIDDEN}", text)
    return _USERINFO.sub(rf"\1{HIDDEN}@", text)


def redact_url(url: str) -> str:
    """Return scheme, host and path of an address, with only the query fields of :data:`SHOWN_PARAMETERS`."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    shown = [(name, value) for name, value in parse_qsl(parts.query) if name in SHOWN_PARAMETERS]
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}" + (f"?{urlencode(shown)}" if shown else "")


def plain(text: str, limit: int = 200) -> str:
    """Return a server's text as one safe line: no control or invisible characters, single spaces, at most ``limit``."""
    if len(text) <= limit and text.isprintable() and "  " not in text and text == text.strip():
        return redact(text)
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text[: limit * 4])
    kept = " ".join("".join(c for c in kept if unicodedata.category(c) not in ("Cf", "Cs", "Co")).split())
    return redact(kept if len(kept) <= limit else kept[: limit - 1] + "…")


class RedactingFilter(logging.Filter):
    """Redacts each log record. For handlers: a filter on a logger does not see the records of its children."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.secrets = tuple(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the message, with its arguments filled in, and the traceback; keep every record."""
        record.msg = redact(record.getMessage(), self.secrets)
        record.args = ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text, self.secrets)
        return True
