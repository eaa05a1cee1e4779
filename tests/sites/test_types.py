from __future__ import annotations

from worker.sites.types import MANAGED_FOLDERS, TYPE_FOLDERS, RepoLine


def test_a_line_never_prints_its_token():
    line = RepoLine(1, "x", "k", "civitai", "u", None, None, token="5ecret-pasted-into-the-link")
    assert "5ecret" not in repr(line)


def test_every_folder_of_a_type_word_is_managed_once():
    assert set(MANAGED_FOLDERS) == set(TYPE_FOLDERS.values())
    assert len(MANAGED_FOLDERS) == len(set(MANAGED_FOLDERS))
