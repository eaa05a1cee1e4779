"""AWS signature version 4 for S3: signed headers for requests, and presigned links. Pure.

The body is not part of the signature (``UNSIGNED-PAYLOAD``), so a file is read only once, while it is sent.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import parse_qsl, quote, urlsplit

from worker.s3.address import Keys

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"


def signed_headers(method: str, url: str, keys: Keys, region: str, now: datetime) -> dict[str, str]:
    """Return the headers that sign a request. ``now`` is in UTC."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": urlsplit(url).netloc, "x-amz-content-sha256": UNSIGNED, "x-amz-date": stamp}
    query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    signature = _signature(_canonical(method, url, query, headers), keys, region, stamp)
    scope = _scope(region, stamp)
    authorization = (
        f"{ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={_names(headers)}, Signature={signature}"
    )
    return {"x-amz-content-sha256": UNSIGNED, "x-amz-date": stamp, "Authorization": authorization}


def presigned(url: str, keys: Keys, region: str, life_s: int, now: datetime) -> str:
    """Return a link with which anyone can GET the object for ``life_s`` seconds."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": urlsplit(url).netloc}
    query = [
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", f"{keys.access}/{_scope(region, stamp)}"),
        ("X-Amz-Date", stamp),
        ("X-Amz-Expires", str(life_s)),
        ("X-Amz-SignedHeaders", _names(headers)),
    ]
    signature = _signature(_canonical("GET", url, query, headers), keys, region, stamp)
    return f"{url}?{_query(query)}&X-Amz-Signature={signature}"


def _signature(canonical_request: str, keys: Keys, region: str, stamp: str) -> str:
    digest = hashlib.sha256(canonical_request.encode()).hexdigest()
    key = f"AWS4{keys.secret}".encode()
    for part in (stamp[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    to_sign = "\n".join([ALGORITHM, stamp, _scope(region, stamp), digest])
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _canonical(method: str, url: str, query: Sequence[tuple[str, str]], headers: Mapping[str, str]) -> str:
    """Return the request in AWS's canonical form, which client and server both sign."""
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    path = urlsplit(url).path or "/"
    return "\n".join([method, path, _query(sorted(query)), lines, _names(headers), UNSIGNED])


def _scope(region: str, stamp: str) -> str:
    return f"{stamp[:8]}/{region}/s3/aws4_request"


def _names(headers: Mapping[str, str]) -> str:
    return ";".join(sorted(headers))


def _query(pairs: Sequence[tuple[str, str]]) -> str:
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)
