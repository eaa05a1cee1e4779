"""The bucket's settings: what is refused, and where its keys stay."""

from __future__ import annotations

import pytest

from client.settings.bucket import BucketConfig
from client.settings.config import ConfigError


@pytest.mark.parametrize(
    ("address", "name", "says"),
    [("", "pics", "address is missing"), ("ftp://host", "pics", "https"), ("https://[", "p1", "not a valid"),
     ("https://host:x", "pics", "not a valid"), ("https://host", "", "names no bucket"),
     ("https://host/a/b", "", "path"), ("https://host/one", "two", "'one'"), ("https://host", "a/b", "cannot be"),
     ("http://example.com", "pics", "unencrypted"), ("https://u:p@host", "pics", "without user")],
)  # fmt: skip
def test_a_bucket_that_cannot_be_used_is_refused_with_the_reason(tmp_path, address, name, says):
    typed = {"address": address, "name": name, "access_key_id": "AK", "secret_access_key": "SK"}
    with pytest.raises(ConfigError, match=says):
        BucketConfig(tmp_path).change(typed)
    assert not (tmp_path / "bucket.json").exists()


def test_keys_stay_for_their_own_address_and_are_never_told(tmp_path, monkeypatch):
    config = BucketConfig(tmp_path)
    assert config.bucket() is None and config.public()["source"] is None
    monkeypatch.setenv("BUCKET_ENDPOINT_URL", "https://env.example/envbucket")
    assert "secret" in config.public()["problem"] or "access key" in config.public()["problem"]
    monkeypatch.setenv("BUCKET_ACCESS_KEY_ID", "AK-env")
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", "SK-env")
    assert config.bucket().name == "envbucket"
    config.change(
        {"address": "https://one.example", "name": "pics", "access_key_id": "AK1", "secret_access_key": "SK1"}
    )
    assert (tmp_path / "bucket.json").stat().st_mode & 0o777 == 0o600
    config.change({"address": "https://one.example", "name": "other", "access_key_id": "", "secret_access_key": ""})
    assert (config.bucket().name, config.bucket().secret) == ("other", "SK1")
    public = config.public()
    assert (public["configured"], public["source"], public["name"]) == (True, "saved", "other")
    assert not any(secret in str((public, config.bucket())) for secret in ("AK1", "SK1", "env"))
    with pytest.raises(ConfigError, match="access key id is missing"):
        config.change({"address": "https://two.example", "name": "pics"})
    config.forget()
    assert config.public()["source"] == "environment"
