"""An S3-compatible bucket: its address from RunPod's settings, and AWS signature version 4. Pure.

The pack is installed without boto3, so the few calls that uploads need are here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from urllib.parse import parse_qsl, quote, urlsplit

UNSIGNED = "UNSIGNED-PAYLOAD"
_ALGORITHM = "AWS4-HMAC-SHA256"
_REGIONS = (
    r"(?:^|\.)s3[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com",
    r"(?:^|\.)s3\.([a-z0-9-]+)\.(?:backblazeb2|wasabisys|scw)\.(?:com|cloud)$",
    r"(?:^|\.)([a-z0-9-]+)\.digitaloceanspaces\.com$",
    r"^s3api-([a-z0-9-]+)\.runpod\.io$",
)
_BUCKET_HOSTS = (
    r"^(.+)\.s3[.-](?:[a-z0-9.-]+\.)?amazonaws\.com$",
    r"^(.+)\.[a-z0-9-]+\.digitaloceanspaces\.com$",
    r"^(.+)\.s3\.[a-z0-9-]+\.(?:backblazeb2|wasabisys|scw)\.(?:com|cloud)$",
    r"^(.+)\.[0-9a-f]{32}\.(?:[a-z]+\.)?r2\.cloudflarestorage\.com$",
)


@dataclass(frozen=True)
class SignedBucket:
    """One bucket with its keys, which are left out of its ``repr``."""

    base: str
    """The address that an object's key is appended to."""
    name: str
    region: str
    access: str = field(repr=False)
    secret: str = field(repr=False)

    @classmethod
    def of(cls, address: str, name: str, region: str, access: str, secret: str) -> SignedBucket:
        """Read an address that may contain the bucket's name in its host or its path, as RunPod's settings allow.

        Raises:
            ValueError: the address cannot be used; the text continues "The bucket's address".
        """
        try:
            parts = urlsplit(address)
            host, in_path, _ = (parts.hostname or "").lower(), parts.path.strip("/"), parts.port
        except ValueError:
            raise ValueError("is not a valid one.") from None
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
            raise ValueError("must be an https:// address without user, query or fragment.")
        in_host = name if name and host.startswith(f"{name.lower()}.") else _first(_BUCKET_HOSTS, host)
        if "/" in in_path or (in_path and in_host):
            raise ValueError("has a path that is not just a bucket's name.")
        found = in_host or in_path or name
        if not found:
            raise ValueError("names no bucket: enter the bucket's name as well.")
        if name and found != name:
            raise ValueError(f"names the bucket {found!r}, and the name given is {name!r}.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", found):
            raise ValueError(f"or name has {found[:60]!r}, which cannot be a bucket's name.")
        root = f"{parts.scheme}://{parts.netloc}"
        return cls(root if in_host else f"{root}/{found}", found, region or _region(host), access, secret)

    def url(self, key: str) -> str:
        """Return an object's address, unsigned."""
        return f"{self.base}/{quote(key, safe='/-_.~')}"

    def headers(self, method: str, url: str, payload: str = UNSIGNED, now: datetime | None = None) -> dict[str, str]:
        """Return the headers that sign a request. ``payload`` is the body's SHA-256 if the store should check it."""
        stamp = _stamp(now)
        signed = {"host": urlsplit(url).netloc, "x-amz-content-sha256": payload, "x-amz-date": stamp}
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        signature = self._signature(_canonical(method, url, query, signed, payload), stamp)
        credential = f"Credential={self.access}/{self._scope(stamp)}"
        words = f"{_ALGORITHM} {credential}, SignedHeaders={_names(signed)}, Signature={signature}"
        return {"x-amz-content-sha256": payload, "x-amz-date": stamp, "Authorization": words}

    def link(self, key: str, life_s: int, now: datetime | None = None) -> str:
        """Return an address that opens the object without keys for ``life_s`` seconds: a secret for that time."""
        url, stamp = self.url(key), _stamp(now)
        signed = {"host": urlsplit(url).netloc}
        query = [
            ("X-Amz-Algorithm", _ALGORITHM),
            ("X-Amz-Credential", f"{self.access}/{self._scope(stamp)}"),
            ("X-Amz-Date", stamp),
            ("X-Amz-Expires", str(life_s)),
            ("X-Amz-SignedHeaders", _names(signed)),
        ]
        signature = self._signature(_canonical("GET", url, query, signed, UNSIGNED), stamp)
        return f"{url}?{_query(query)}&X-Amz-Signature={signature}"

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self.region}/s3/aws4_request"

    def _signature(self, request: str, stamp: str) -> str:
        key = f"AWS4{self.secret}".encode()
        for part in self._scope(stamp).split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        digest = hashlib.sha256(request.encode()).hexdigest()
        to_sign = "\n".join([_ALGORITHM, stamp, self._scope(stamp), digest])
        return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _canonical(method: str, url: str, query: list[tuple[str, str]], headers: dict[str, str], payload: str) -> str:
    """Return the canonical request, which both sides sign."""
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    return "\n".join([method, urlsplit(url).path or "/", _query(sorted(query)), lines, _names(headers), payload])


def _names(headers: dict[str, str]) -> str:
    return ";".join(sorted(headers))


def _query(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)


def _stamp(now: datetime | None) -> str:
    return (now or datetime.now(timezone.utc)).strftime("%Y%m%dT%H%M%SZ")


def _region(host: str) -> str:
    found = _first(_REGIONS, host) or "us-east-1"  # stores without regions accept this one
    return found.upper() if host.endswith(".runpod.io") else found


def _first(patterns: tuple[str, ...], host: str) -> str | None:
    return next((match[1] for pattern in patterns if (match := re.search(pattern, host))), None)
