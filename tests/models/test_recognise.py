"""Which files on disk are taken for a wanted model, by their bytes."""

from dataclasses import replace
from hashlib import sha256

import pytest

from tests.support.inventories import wanted
from tests.support.model_bench import model_bytes, put
from worker.models import plan
from worker.models.inventory import ModelFolders
from worker.models.locations import Location
from worker.models.recognise import has_expected_bytes, recognise
from worker.stop import Stop, StoppedError

DATA = model_bytes(1)
HASH = sha256(DATA).hexdigest()
A = Location("loras", "a.safetensors")


@pytest.fixture
def found(root):
    """The entries of the wants that are recognised, by location."""

    def look(*wants, skip=(), folders=None):
        folders = folders or ModelFolders(root)
        entries = recognise(wants, folders.read(fresh=True), folders, Stop(), skip=skip)
        return {entry.location: entry for entry in entries.values()}

    return look


def test_a_file_with_the_right_name_size_and_hash_is_recognised_as_found_on_disk(found, root):
    put(root, str(A), DATA)
    entry = found(wanted(size=len(DATA), sha256=HASH))[A]
    assert (entry.identity, entry.origin, entry.sha256, entry.verified) == ("civitai:1:2", "adopted", HASH, "sha256")


def test_a_file_with_other_bytes_is_not_recognised(found, root):
    put(root, str(A), DATA[:-1] + b"x")
    assert found(wanted(size=len(DATA), sha256=HASH)) == {}


def test_without_a_published_hash_the_size_and_the_header_decide(found, root):
    put(root, str(A), DATA)
    assert found(wanted(size=len(DATA)))[A].verified == "size+header"
    put(root, str(A), b"<" * len(DATA))
    assert found(wanted(size=len(DATA))) == {}


def test_a_file_whose_download_was_begun_here_counts_as_downloaded(found, root):
    want, folders = wanted(), ModelFolders(root)
    put(root, str(A), DATA)
    folders.commit({A: plan.pending_entry(want, A, 1e18)})
    assert found(want, folders=folders)[A].origin == "downloaded"


def test_a_skipped_location_is_not_considered_and_the_next_one_is(found, root):
    other = Location("loras", "xl/a.safetensors")
    put(root, str(A), DATA)
    put(root, str(other), DATA)
    want = wanted(size=len(DATA), sha256=HASH)
    assert list(found(want)) == [A]
    assert list(found(want, skip={A})) == [other]


def test_one_file_answers_the_first_of_two_wants(found, root):
    put(root, str(A), DATA)
    first, second = wanted("civitai:1:2", size=len(DATA)), wanted("civitai:3:4", key="k2", size=len(DATA))
    assert found(first, second)[A].identity == "civitai:1:2"


def test_recognising_can_be_stopped_while_it_hashes(root):
    put(root, str(A), DATA)
    folders, stop = ModelFolders(root), Stop()
    stop.set()
    with pytest.raises(StoppedError):
        recognise([wanted(size=len(DATA), sha256=HASH)], folders.read(), folders, stop)


def test_the_bytes_of_other_kinds_of_files_are_judged_by_their_hash_alone(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"no header")
    file = wanted(sha256=sha256(b"no header").hexdigest()).file
    assert has_expected_bytes(path, file, Stop())
    assert not has_expected_bytes(path, replace(file, sha256=HASH), Stop())
    assert not has_expected_bytes(tmp_path / "gone.pth", file, Stop())
