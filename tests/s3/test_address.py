"""The address, name and region of a bucket are read from its endpoint, or the error names what is wrong."""

from __future__ import annotations

import pytest

from worker.s3.address import Keys, bucket_address

KEYS = Keys("AK", "SK")


@pytest.mark.parametrize(
    ("endpoint", "name", "base", "bucket", "region"),
    [
        ("https://s3.example.com", "pics", "https://s3.example.com/pics", "pics", "us-east-1"),
        ("https://s3.example.com/pics", None, "https://s3.example.com/pics", "pics", "us-east-1"),
        ("https://s3.example.com/pics/", "pics", "https://s3.example.com/pics", "pics", "us-east-1"),
        ("https://s3.eu-west-1.amazonaws.com", "a.b", "https://s3.eu-west-1.amazonaws.com/a.b", "a.b", "eu-west-1"),
        ("https://a.b.s3.eu-west-1.amazonaws.com", None, "https://a.b.s3.eu-west-1.amazonaws.com", "a.b", "eu-west-1"),
        ("https://pics.s3.amazonaws.com", "pics", "https://pics.s3.amazonaws.com", "pics", "us-east-1"),
        ("https://pics.fra1.digitaloceanspaces.com", None, "https://pics.fra1.digitaloceanspaces.com", "pics", "fra1"),
        (
            "https://s3.us-west-004.backblazeb2.com",
            "p1x",
            "https://s3.us-west-004.backblazeb2.com/p1x",
            "p1x",
            "us-west-004",
        ),
        ("https://s3api-eu-ro-1.runpod.io/", "vol", "https://s3api-eu-ro-1.runpod.io/vol", "vol", "EU-RO-1"),
        ("https://pics.store.example.com:9000", "pics", "https://pics.store.example.com:9000", "pics", "us-east-1"),
    ],
)
def test_an_endpoint_may_name_its_bucket_and_region(endpoint, name, base, bucket, region):
    found = bucket_address(endpoint, name, KEYS)
    assert (found.base, found.bucket, found.region) == (base, bucket, region)


@pytest.mark.parametrize(
    ("endpoint", "name", "said"),
    [
        ("https://s3.example.com", None, "names no bucket"),
        ("https://s3.example.com/a", "b", "names the bucket"),
        ("https://s3.example.com/a/b", "a", "path"),
        ("https://s3.example.com?x=1", "a", "without"),
        ("https://u:p@s3.example.com", "a", "without"),
        ("s3.example.com", "a", "http"),
        ("https://s3.example.com", "a b", "bucket's name"),
    ],
)
def test_what_cannot_be_a_bucket_is_said(endpoint, name, said):
    with pytest.raises(ValueError, match=said):
        bucket_address(endpoint, name, KEYS)


def test_links_are_escaped_and_public_only_if_the_bucket_is_published():
    private = bucket_address("https://s3.example.com", "pics", KEYS)
    assert private.url("job/ä b+c.png") == "https://s3.example.com/pics/job/%C3%A4%20b%2Bc.png"
    assert private.public_link("a.png") is None
    public = bucket_address("https://s3.example.com", "pics", KEYS, public_url="https://cdn.example.com")
    assert public.public_link("job/a b.png") == "https://cdn.example.com/job/a%20b.png"
