"""The kinds of media by file extension."""

from __future__ import annotations

from client.media_types import AUDIO, MODELS_3D, PICTURES, VIDEO


def test_an_extension_is_of_one_kind_and_spelled_as_a_lower_case_suffix():
    extensions = [*VIDEO, *AUDIO, *PICTURES, *MODELS_3D]
    assert len(set(extensions)) == len(extensions)
    assert all(extension[0] == "." and extension == extension.lower() for extension in extensions)
