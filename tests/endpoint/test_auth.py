"""The endpoint's key: from the environment, else kept in a file that only its owner reads."""

from __future__ import annotations

import pytest

from endpoint.auth import KeyFileError, client_key


def test_a_key_is_made_once_kept_for_its_owner_alone_and_shown_once(tmp_path):
    file = tmp_path / "api_key"
    made = client_key({}, file)
    assert made.is_new
    assert file.stat().st_mode & 0o777 == 0o600
    assert client_key({}, file) == (made.value, False)


def test_the_environments_key_is_used_and_taken_out_of_it(tmp_path):
    environ = {"RUNPOD_API_KEY": " given "}
    assert client_key(environ, tmp_path / "api_key") == ("given", False)
    assert (environ, list(tmp_path.iterdir())) == ({}, [])


@pytest.mark.parametrize(("text", "mode", "says"), [("k", 0o644, "chmod 600"), (" \n", 0o600, "is empty")])
def test_a_file_that_cannot_hold_a_key_is_named(tmp_path, text, mode, says):
    file = tmp_path / "api_key"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(KeyFileError, match=says):
        client_key({}, file)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KeyFileError, match="No such file"):
        client_key({}, tmp_path / "none" / "api_key")
