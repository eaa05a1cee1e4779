"""Requests and links are signed as boto signs them."""

from __future__ import annotations

from datetime import datetime, timezone

import boto3
import botocore.auth
import botocore.config
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from worker.s3.address import Keys
from worker.s3.signature import presigned, signed_headers

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
KEYS = Keys("AK", "SK")
URL = "https://s3.example.com:9000/pics/job/%C3%A4%20b%2Bc.png"


@pytest.fixture(autouse=True)
def botocore_clock(monkeypatch):
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: NOW.replace(tzinfo=None))


def test_a_link_is_signed_as_boto_signs_it():
    client = boto3.client(
        "s3",
        endpoint_url="https://s3.example.com:9000",
        region_name="eu-west-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
        config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    params = {"Bucket": "pics", "Key": "job/ä b+c.png"}
    expected = client.generate_presigned_url("get_object", Params=params, ExpiresIn=600)
    assert presigned(URL, KEYS, "eu-west-1", 600, NOW) == expected


@pytest.mark.parametrize(
    ("method", "query"), [("PUT", ""), ("POST", "?uploads="), ("PUT", "?uploadId=a%2Bb&partNumber=2")]
)
def test_a_request_is_signed_as_boto_signs_it(method, query):
    request = AWSRequest(method, URL + query)
    request.context["client_config"] = botocore.config.Config(s3={"payload_signing_enabled": False})
    botocore.auth.S3SigV4Auth(Credentials("AK", "SK"), "s3", "eu-west-1").add_auth(request)
    headers = signed_headers(method, URL + query, KEYS, "eu-west-1", NOW)
    assert headers["Authorization"] == request.headers["Authorization"]
    assert headers["x-amz-date"] == request.headers["X-Amz-Date"]
