"""Inputs lie once, under the names that the prompt uses, and nothing that was there before is touched."""

from __future__ import annotations

import os

import pytest

from worker.errors import WorkerError
from worker.inputs.folder import STORE, InputFolder


@pytest.fixture
def folder(tmp_path) -> InputFolder:
    root = tmp_path / "input"
    root.mkdir()
    return InputFolder(root, budget_bytes=1000)


def put(folder: InputFolder, name: str, data: bytes) -> dict[str, str]:
    return folder.link_inputs([(name, folder.keep(data))])


def names(folder: InputFolder) -> set[str]:
    found = (path for path in folder.root.rglob("*") if path.is_file() and STORE not in path.parts)
    return {str(path.relative_to(folder.root)) for path in found}


def test_a_file_lies_under_its_name_and_its_content_once(folder):
    put(folder, "sub/a.png", b"one")
    put(folder, "b.png", b"one")
    assert (folder.root / "sub/a.png").read_bytes() == (folder.root / "b.png").read_bytes() == b"one"
    assert len(list(folder.store.iterdir())) == 1


def test_a_repeated_input_is_not_written_again(folder):
    put(folder, "a.png", b"one")
    before = (folder.root / "a.png").stat()
    put(folder, "a.png", b"one")
    after = (folder.root / "a.png").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_name_may_get_other_content_in_a_later_job(folder):
    put(folder, "a.png", b"one")
    assert put(folder, "a.png", b"two") == {}
    assert (folder.root / "a.png").read_bytes() == b"two"
    assert put(folder, "a.png", b"one") == {}
    assert (folder.root / "a.png").read_bytes() == b"one"


def test_a_file_that_was_there_before_is_never_touched(folder):
    (folder.root / "example.png").write_bytes(b"theirs")
    renamed = put(folder, "example.png", b"ours")
    assert (folder.root / "example.png").read_bytes() == b"theirs"
    actual = renamed["example.png"]
    assert actual.startswith("example.")
    assert actual.endswith(".png")
    assert (folder.root / actual).read_bytes() == b"ours"
    assert put(folder, "example.png", b"theirs") == {}


def test_past_the_budget_what_was_used_longest_ago_goes_with_its_names(folder):
    (folder.root / "theirs.png").write_bytes(b"x" * 5000)
    for number in range(5):
        put(folder, f"{number}.png", bytes([number]) * 150)
        content = folder.keep(bytes([number]) * 150)
        os.utime(content.path, (number, number))
    put(folder, "again.png", bytes([0]) * 150)
    put(folder, "big.png", b"y" * 450)
    assert names(folder) == {"theirs.png", "again.png", "0.png", "big.png", "4.png"}


def test_a_job_larger_than_the_budget_still_has_all_its_inputs(folder):
    folder.link_inputs([(f"{number}.png", folder.keep(bytes([number]) * 600)) for number in range(4)])
    assert names(folder) == {"0.png", "1.png", "2.png", "3.png"}


@pytest.mark.parametrize("name", ["out/x.png", "out/deep/x.png", f"{STORE}/x.png"])
def test_a_name_that_leads_out_of_the_folder_is_refused(folder, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (folder.root / "out").symlink_to(tmp_path / "elsewhere")
    content = folder.keep(b"x")
    with pytest.raises(WorkerError, match="INVALID_INPUT"):
        folder.link_inputs([(name, content)])
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_of_somebody_elses_is_not_written_through(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder.root / "a.png").symlink_to(tmp_path / "secret.png")
    assert put(folder, "a.png", b"ours") != {}
    assert (tmp_path / "secret.png").read_bytes() == b"secret"
    (folder.root / "dangling.png").symlink_to(tmp_path / "new.png")
    put(folder, "dangling.png", b"ours")
    assert not (tmp_path / "new.png").exists()


@pytest.mark.parametrize(
    ("name", "said"), [("there", "is a folder"), ("theirs.png/x.png", "where this worker has a file")]
)
def test_a_name_that_cannot_be_a_file_is_refused(folder, name, said):
    (folder.root / "there").mkdir()
    (folder.root / "theirs.png").write_bytes(b"x")
    with pytest.raises(WorkerError, match=said):
        put(folder, name, b"x")


def test_without_hard_links_it_works_as_well(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(1, "not here")

    monkeypatch.setattr(os, "link", refuse)
    put(folder, "a.png", b"one")
    assert put(folder, "a.png", b"two") == {}
    assert (folder.root / "a.png").read_bytes() == b"two"
    put(folder, "big.png", b"y" * 1100)
    assert names(folder) == {"big.png"}
