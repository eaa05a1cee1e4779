"""An S3 server's answer becomes a retry or an error that names what to correct."""

from __future__ import annotations

import pytest

from worker.errors import Code
from worker.net.retry import RetryReason
from worker.s3.errors import bucket_error, tag


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


def test_the_callers_error_names_the_bucket_and_that_the_files_are_kept():
    error = bucket_error(403, b"<Error><Code>AccessDenied</Code></Error>", "pics").worker_error("pics")
    assert error.code is Code.UPLOAD_FAILED
    assert error.details == {"bucket": "pics"}
    assert "The files stay on this worker" in error.hint


def test_a_wrong_region_is_answered_with_the_variable_to_set():
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>"
    error = bucket_error(400, body, "pics")
    assert error.message.endswith("the bucket is in region eu-central-1")
    assert error.hint == "Set BUCKET_REGION to it."


def test_an_elements_text_is_unescaped_and_a_missing_one_is_none():
    assert tag(b"<A><UploadId> a&amp;b </UploadId></A>", "UploadId") == "a&b"
    assert tag(b"<A></A>", "UploadId") is None
