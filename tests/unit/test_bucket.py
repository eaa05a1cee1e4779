"""Where a bucket is, what its variables must say, and what keys and links look like."""

from __future__ import annotations

import pytest

from worker.net.retry import RetryReason
from worker.s3.address import Keys, bucket_address
from worker.s3.errors import bucket_error
from worker.s3.upload import Bucket
from worker.settings import Settings, SettingsError

KEYS = Keys("AK", "SK")
ENV = {
    "BUCKET_ENDPOINT_URL": "https://s3.example.com",
    "BUCKET_ACCESS_KEY_ID": "AK-test",
    "BUCKET_SECRET_ACCESS_KEY": "SK-test",
    "BUCKET_NAME": "pics",
}


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


@pytest.mark.parametrize("missing", list(ENV))
def test_half_a_bucket_stops_the_start(missing):
    with pytest.raises(SettingsError, match=missing) as caught:
        Settings.from_environ({name: value for name, value in ENV.items() if name != missing})
    assert "SK-test" not in str(caught.value)


def test_a_whole_bucket_starts_and_shows_no_secret():
    settings = Settings.from_environ({**ENV, "BUCKET_PREFIX": "a/", "BUCKET_LINK_LIFE_S": "600"})
    assert settings.bucket is not None
    assert (settings.bucket.prefix, settings.bucket.link_life_s) == ("a/", 600)
    assert Settings.from_environ({}).bucket is None
    for shown in (repr(settings), repr(settings.bucket)):
        assert "SK-test" not in shown
        assert "AK-test" not in shown
    assert {"SK-test", "AK-test"} <= set(settings.secrets)


@pytest.mark.parametrize(
    ("name", "value"),
    [("RESULT_TO", "s3"), ("RESULT_TO", "ftp"), ("BUCKET_LINK_LIFE_S", "9999999"), ("RESULT_QUALITY", "0")],
)
def test_settings_that_cannot_be_used_are_named(name, value):
    with pytest.raises(SettingsError, match=name):
        Settings.from_environ({name: value})


def test_a_key_stays_inside_its_job():
    bucket = Bucket(bucket_address("https://h", "pics", KEYS, prefix="/out/"))
    assert bucket.key("job-1", "sub/dir", "a.png") == "out/job-1/sub/dir/a.png"
    assert bucket.key("../x", "../..", "/etc/x") == "out/.._x/_etc_x"


@pytest.mark.parametrize(
    ("status", "code", "said", "retry_reason"),
    [
        (503, "SlowDown", "503", RetryReason.SERVER),
        (400, "RequestTimeout", "400", RetryReason.SERVER),
        (403, "AccessDenied", "writing to the bucket 'pics' was refused", RetryReason.NEVER),
        (403, "SignatureDoesNotMatch", "credentials were refused", RetryReason.NEVER),
        (404, "NoSuchBucket", "no bucket 'pics'", RetryReason.NEVER),
        (404, "", "no bucket 'pics'", RetryReason.NEVER),
        (301, "PermanentRedirect", "301", RetryReason.NEVER),
        (418, "\x1b[31m<evil>", "418", RetryReason.NEVER),
    ],
)
def test_what_an_answer_means(status, code, said, retry_reason):
    found = bucket_error(status, f"<Error><Code>{code}</Code></Error>".encode(), "pics")
    assert said in found.message
    assert found.retry_reason is retry_reason
    assert "\x1b" not in found.message
