"""Address and keys of a bucket, from RunPod's variables or from a job's ``s3Config``. Pure.

RunPod's BUCKET_ENDPOINT_URL may include the bucket's name: in its host (``https://pics.s3.eu-west-1.amazonaws.com``)
or in its path (``https://host/pics``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

LONGEST_LINK_S = 7 * 24 * 3600  # what AWS signature version 4 allows
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
class Keys:
    """An access key and its secret; neither is ever displayed."""

    access: str = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True)
class BucketAddress:
    """One bucket on one S3-compatible server.

    ``base`` is the address that an object's key is appended to.
    """

    base: str
    bucket: str
    region: str
    keys: Keys
    prefix: str = ""
    public_url: str | None = None
    link_life_s: int = LONGEST_LINK_S

    def url(self, key: str) -> str:
        """Return the object's address, unsigned."""
        return f"{self.base}/{escaped(key)}"

    def public_link(self, key: str) -> str | None:
        """Return the object's public address; None if the operator has not published the bucket."""
        return f"{self.public_url}/{escaped(key)}" if self.public_url else None


def escaped(key: str) -> str:
    """Escape a key for an address in the way that S3's signature demands."""
    return quote(key, safe="/-_.~")


def bucket_address(
    endpoint_url: str, name: str | None, keys: Keys, region: str | None = None, **options: str | int | None
) -> BucketAddress:
    """Parse an endpoint address that may include the bucket's name.

    Raises:
        ValueError: the address names no bucket or two, or cannot be used; the message gives the reason.
    """
    parts = urlsplit(endpoint_url)
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        raise ValueError("must be an http:// or https:// address without a user name or query")
    in_path = parts.path.strip("/")
    in_host = name if name and host.startswith(f"{name.lower()}.") else _first(_BUCKET_HOSTS, host)
    if "/" in in_path or (in_path and in_host):
        raise ValueError("has a path that is not just a bucket's name")
    found = in_host or in_path
    if found and name and found != name:
        raise ValueError(f"names the bucket {found!r}, but the name given is {name!r}")
    if not (found or name):
        raise ValueError("names no bucket")
    bucket = str(found or name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
        raise ValueError(f"{bucket!r} cannot be a bucket's name")
    root = f"{parts.scheme}://{parts.netloc}"
    base = root if in_host else f"{root}/{bucket}"
    return BucketAddress(base, bucket, region or _region(host), keys, **options)  # type: ignore[arg-type]


def _region(host: str) -> str:
    found = _first(_REGIONS, host) or "us-east-1"  # stores without regions accept this one
    return found.upper() if host.endswith(".runpod.io") else found


def _first(patterns: tuple[str, ...], host: str) -> str | None:
    for pattern in patterns:
        if match := re.search(pattern, host):
            return match[1]
    return None
