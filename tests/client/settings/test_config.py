"""The endpoint, its key and the options: what is accepted, and what is saved where."""

from __future__ import annotations

import pytest

from client.settings.config import Config, ConfigError, parse_endpoint


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("abc123def456", "https://api.runpod.ai/v2/abc123def456"),
        (" https://api.runpod.ai/v2/abc123/run ", "https://api.runpod.ai/v2/abc123"),
        ("https://api.runpod.ai/v2/abc123", "https://api.runpod.ai/v2/abc123"),
        ("https://api.runpod.ai/v2/abc123/runsync/", "https://api.runpod.ai/v2/abc123"),
        ("http://127.0.0.1:8000/v2/local", "http://127.0.0.1:8000/v2/local"),
        ("http://[::1]:8000/v2/local/run", "http://[::1]:8000/v2/local"),
        ("http://192.168.1.7:8000/v2/box", "http://192.168.1.7:8000/v2/box"),
        ("https://x-8000.proxy.runpod.net/v2/pod", "https://x-8000.proxy.runpod.net/v2/pod"),
        ("", ""),
    ],
)
def test_what_a_person_pastes_is_understood(text, base):
    assert parse_endpoint(text) == base


@pytest.mark.parametrize(
    "text",
    ["http://example.com/v2/abc", "ftp://127.0.0.1/v2/abc", "https://user:pw@api.runpod.ai/v2/abc", "https://x/v2/abc?key=1",
     "https://api.runpod.ai/", "https://api.runpod.ai/v2/../../x", "https://[", "a b", "https://x/v2/abc#f",
     "javascript:alert(1)"],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(text):
    with pytest.raises(ConfigError):
        parse_endpoint(text)


def test_a_key_goes_to_its_own_origin_only(tmp_path, monkeypatch):
    config = Config(tmp_path / "private")
    runpod, other, here = (
        parse_endpoint(x) for x in ("abc123", "https://evil.example/v2/abc", "http://127.0.0.1:1/v2/abc")
    )
    config.set_key("rpa_one", runpod)
    assert [config.key_for(base) for base in (runpod, other, here)] == ["rpa_one", None, None]
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_env")
    assert [config.key_for(base) for base in (runpod, other, here)] == ["rpa_one", None, "rpa_env"]
    config.forget_key()
    assert config.key_source(runpod) == "environment"
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    for bad in ("", "a\nb", "é" * 8, "x" * 1000):
        with pytest.raises(ConfigError):
            config.set_key(bad, runpod)


def test_settings_outlive_damage(tmp_path):
    config = Config(tmp_path)
    config.change({"endpoint": "abc123", "ms_per_step": 250})
    assert Config(tmp_path).settings == config.settings
    (tmp_path / "settings.json").write_text('{"endpoint": 7')
    assert Config(tmp_path).settings.endpoint == ""
    for bad in ({"ms_per_step": 0}, {"ms_per_step": True}, {"previews": 1}, {"nonsense": 1}, {"endpoint": None}):
        with pytest.raises(ConfigError):
            config.change(bad)
