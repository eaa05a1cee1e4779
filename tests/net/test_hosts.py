"""Hosts are compared as a whole, so that no name that merely looks like a site's gets its token."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from worker.net.hosts import is_ip, is_loopback, is_named, origin, port_of, public_site


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("civitai.com", "civitai"),
        ("WWW.Civitai.com", "civitai"),
        ("civitai.red", "civitai"),
        ("huggingface.co", "hf"),
        ("hf.co", "hf"),
        ("b2.civitai.com", None),
        ("cdn-lfs.huggingface.co", None),
        ("civitai.com.evil.example", None),
        ("evilcivitai.com", None),
        ("civitai.com.", None),
        ("", None),
    ],
)
def test_only_a_sites_own_host_is_the_site(host, site):
    assert public_site(host) == site


@pytest.mark.parametrize(("url", "port"), [("https://h", 443), ("http://h", 80), ("https://h:8443", 8443)])
def test_a_port_is_the_named_one_or_the_schemes(url, port):
    assert port_of(urlsplit(url)) == port


def test_a_port_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="Port"):
        port_of(urlsplit("https://h:eighty"))


def test_one_server_is_one_scheme_host_and_port():
    assert origin("https://H.example/a") == origin("https://h.example:443/b?c")
    assert origin("https://h.example") != origin("http://h.example")
    assert origin("https://h.example") != origin("https://h.example:8443")
    assert origin("https://h.example") != origin("https://x.h.example")


@pytest.mark.parametrize("host", ["1.2.3.4", "::1", "2130706433", "127.1", "0x7f000001", "127.0.0.0x1", "1.2.3.4."])
def test_every_spelling_that_resolves_to_an_address_is_numeric(host):
    assert is_ip(host)


@pytest.mark.parametrize("host", ["example.com", "0xg", "a.b", "x1"])
def test_a_name_is_not_numeric(host):
    assert not is_ip(host)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("LOCALHOST", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("h", False)],
)
def test_this_machine_is_recognised(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("entry", "url", "named"),
    [
        ("models.lan", "https://models.lan/x", True),
        ("models.lan", "https://MODELS.lan/x", True),
        ("models.lan", "http://models.lan/x", False),
        ("models.lan", "https://models.lan:8443/x", False),
        ("models.lan:8443", "https://models.lan:8443/x", True),
        ("models.lan:8443", "https://models.lan/x", False),
        ("models.lan", "https://x.models.lan/y", False),
        ("lan", "https://models.lan/x", False),
        ("localhost", "http://localhost:9000/x", True),
        ("127.0.0.1", "http://127.0.0.1/x", True),
        ("https://models.lan:8443", "https://models.lan:8443/x", True),
    ],
)
def test_an_operators_entry_names_one_host_and_port(entry, url, named):
    assert is_named(["other.lan", entry], urlsplit(url)) is named
