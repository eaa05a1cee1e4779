"""The meaning of an HTTP answer is read from whatever headers and body a site sends."""

from __future__ import annotations

import json
import time

import pytest

from worker.net.answers import HttpAnswer


@pytest.mark.parametrize("text", ["\u00b2", "9" * 5000, "1 Jan 1 0:0:0 +99999999999", "Mon, 99 Jan 2026"])
def test_an_odd_time_to_wait_is_none(text):
    assert HttpAnswer(429, {"Retry-After": text}).retry_after_s is None


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({}, json.dumps({"message": "No access", "error": "Forbidden"}).encode(), "No access"),
        ({}, json.dumps({"error": {"message": "nested"}}).encode(), "nested"),
        ({"X-Error-Message": "gated repo"}, b"", "gated repo"),
        ({"Content-Type": "text/plain; charset=utf-8"}, b"short and\nstout", "short and stout"),
        ({"Content-Type": "text/html"}, b"<h1>no</h1>", ""),
        ({}, b"[" * 100_000, ""),
        ({}, b'["a list"]', ""),
    ],
)
def test_the_servers_message_is_found_where_sites_put_it(headers, body, message):
    assert HttpAnswer(403, headers, body).message == message


@pytest.mark.parametrize(
    ("headers", "body", "page"),
    [
        ({"Content-Type": "Text/HTML"}, b"", True),
        ({}, b"  <!DOCTYPE html>", True),
        ({"Content-Type": "application/octet-stream"}, b"\x08\x00", False),
    ],
)
def test_a_web_page_is_told_from_a_file(headers, body, page):
    assert HttpAnswer(200, headers, body).is_page is page


def test_retry_after_is_read_as_seconds_and_as_a_date():
    assert HttpAnswer(429, {"Retry-After": "12"}).retry_after_s == 12
    assert HttpAnswer(429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}).retry_after_s == 0
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 55 < HttpAnswer(429, {"Retry-After": later}).retry_after_s <= 60
    assert HttpAnswer(429, {"Retry-After": "soon"}).retry_after_s is None
    assert HttpAnswer(429).retry_after_s is None
