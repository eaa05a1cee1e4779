"""Nothing that looks like a secret is shown, and other text stays as it is."""

from __future__ import annotations

import logging

import pytest

from worker.net.redact import RedactingFilter, plain, redact, redact_url

SECRET = "5ecr3t-value_0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /api/download/models/5?type=Model&token={SECRET}&format=x",
        f"Authorization: Bearer {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f'"authorization": "{SECRET}"',
        f"https://r2.example/x?X-Amz-Signature={SECRET}&X-Amz-Expires=5",
        f"https://b2.example/x?Signature={SECRET}",
        f"sig={SECRET}",
        f"https://user:{SECRET}@example.com/x",
        f"hf_token = {SECRET}",
        f"api_key: {SECRET}",
        f"curl -H 'Bearer {SECRET}'",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text):
    shown = redact(text)
    assert SECRET not in shown
    assert "***" in shown


def test_harmless_text_stays_as_it_is():
    for text in (
        "clip token count: 77 of 77",
        "the model design=abc has 3 tokens",
        "https://civitai.com/api/download/models/5?type=Model&fileId=7",
        "policymaker.safetensors",
    ):
        assert redact(text) == text


def test_known_values_are_hidden_wherever_they_stand():
    assert redact(f"x{SECRET}y", [SECRET, ""]) == "x***y"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two words", "two words"),
        ("two  words", "two words"),
        (" edge ", "edge"),
        ("a\tb", "a b"),
        ("a\u200bb", "ab"),
        ("ü", "ü"),
        ("x" * 10, "x" * 10),
        ("x" * 11, "x" * 9 + "…"),
    ],
)
def test_text_that_is_plain_already_stays_and_other_text_is_mended(text, shown):
    assert plain(text, 10) == shown


def test_an_address_is_shown_without_what_signs_it():
    url = f"https://u:p@b2.example:8443/file/x.safetensors?Authorization={SECRET}&fileId=5#f"
    assert redact_url(url) == "https://b2.example:8443/file/x.safetensors?fileId=5"


def test_server_text_is_made_plain():
    assert plain("a\x1b[31m\r\nb\u202ec\x00  d") == "a [31m bc d"
    assert plain("x" * 500, 10) == "xxxxxxxxx…"
    assert SECRET not in plain(f"failed at https://h/x?token={SECRET}")


def test_the_filter_hides_secrets_in_messages_arguments_and_tracebacks(caplog):
    log = logging.getLogger("test.redact")
    caplog.handler.addFilter(RedactingFilter([SECRET]))
    try:
        raise ValueError(f"no route to https://h/?token={SECRET}")
    except ValueError:
        log.exception("the request %s broke", f"with {SECRET}")
    log.warning({"Authorization": f"Bearer {SECRET}"})
    assert SECRET not in caplog.text
    assert "the request with *** broke" in caplog.text
    assert "ValueError: no route to https://h/?token=***" in caplog.text
