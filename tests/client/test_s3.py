"""An S3 bucket's address and signatures, which the worker reads and makes alike."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from client.s3 import SignedBucket
from worker.s3.address import Keys, bucket_address
from worker.s3.signature import presigned, signed_headers

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("address", "name"),
    [("https://s3.eu-west-1.amazonaws.com", "pics"), ("https://pics.s3.eu-west-1.amazonaws.com", ""),
     ("https://pics.s3.eu-west-1.amazonaws.com", "pics"), ("https://host:9000/pics", ""),
     ("https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com", "pics"),
     ("https://s3api-eur-is-1.runpod.io", "vol123"), ("https://fra1.digitaloceanspaces.com", "pics")],
)  # fmt: skip
def test_client_and_worker_read_and_sign_alike(address, name):
    ours = SignedBucket.of(address, name, "", "AK", "SK")
    theirs = bucket_address(address, name or None, Keys("AK", "SK"))
    assert (ours.base, ours.name, ours.region) == (theirs.base, theirs.bucket, theirs.region)
    url = ours.url("a b/ä.png")
    assert url == theirs.url("a b/ä.png")
    assert ours.headers("PUT", f"{url}?uploads=", now=NOW) == signed_headers(
        "PUT", f"{url}?uploads=", theirs.keys, theirs.region, NOW
    )
    assert ours.link("a b/ä.png", 60, NOW) == presigned(url, theirs.keys, theirs.region, 60, NOW)
