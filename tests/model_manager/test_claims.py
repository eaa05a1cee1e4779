"""Several workers on one models folder: what one uses or brings, the others neither delete nor bring a second time."""

import errno
import logging
import threading
from pathlib import Path

import pytest

from model_manager import ModelManager
from tests.support.model_bench import FakeSource, claims_of, lora, named, tree
from worker.errors import WorkerError
from worker.models import fetch
from worker.models.leases import LEASES_PATH
from worker.models.locations import Location
from worker.process_id import process_id
from worker.settings import Settings
from worker.stop import Stop, StoppedError

FILE = Location("loras", "m1.safetensors")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def source():
    source = FakeSource()
    for version in (1, 2, 3):
        source.add(version)
    return source


@pytest.fixture
def worker(root, source):
    """Makes workers that live side by side."""

    def make(source=source, **environ):
        named = {"COMFYUI_URL": "http://127.0.0.1:1", "MODELS_DIR": str(root), **environ}
        return ModelManager(Settings.from_environ(named), source, volume=Path("/no/such/volume"))

    return make


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(fetch, "POLL_EVERY_S", 0.005)


def test_what_another_worker_uses_is_deleted_only_when_it_is_released(worker, source, root):
    one, other = worker(), worker()
    one.prepare(source.list(1), {})
    assert other.prepare(source.list(2), {}).pruned == []
    one.release()
    assert named(other.prepare(source.list(2), {}).pruned) == ["loras/m1.safetensors"]
    assert tree(root).keys() == {"loras/m2.safetensors"}


def test_what_another_workers_prompt_names_without_listing_it_is_not_deleted(worker, source):
    worker().prepare(source.list(1), {}, prune=False)
    one, other = worker(), worker()
    one.prepare("", lora("m1.safetensors"))
    assert other.prepare(source.list(2), {}).pruned == []


def test_a_job_that_came_to_use_a_file_to_delete_during_the_download_keeps_it(worker, source, root):
    one, other = worker(), worker()
    one.prepare(source.list(1), {})
    one.release()
    source.before_fetch = lambda downloads: one.prepare(source.list(1), {})
    result = other.prepare(source.list(2), {})
    assert result.pruned == []
    assert tree(root).keys() == {"loras/m1.safetensors", "loras/m2.safetensors"}


def test_a_file_that_went_before_it_was_claimed_is_fetched_again(worker, source, root, monkeypatch):
    one, other = worker(), worker()
    one.prepare(source.list(1), {})
    one.release()
    claim = one._leases.claim

    def late(*args):
        if tree(root).keys() == {"loras/m1.safetensors"}:
            other.prepare(source.list(2), {})
        return claim(*args)

    monkeypatch.setattr(one._leases, "claim", late)
    assert named(one.prepare(source.list(1), {}, prune=False).downloaded) == ["loras/m1.safetensors"]


def test_a_model_that_another_worker_fetches_is_waited_for_and_not_fetched_twice(worker, source):
    one, other = worker(), worker()
    begun, go_on = threading.Event(), threading.Event()

    def slow(downloads):
        begun.set()
        assert go_on.wait(10)

    source.before_fetch = slow
    reports = []
    answers = {}
    first = threading.Thread(target=lambda: answers.update(one=one.prepare(source.list(1), {})))
    first.start()
    assert begun.wait(10)

    def report(files):
        reports.extend(files)
        go_on.set()

    answers["other"] = other.prepare(source.list(1), {}, report=report)
    first.join()
    assert source.fetched == ["m1.safetensors"]
    assert named(answers["one"].downloaded) == named(answers["other"].ready) == ["loras/m1.safetensors"]
    assert [each.name for each in reports] == ["m1.safetensors"]


def test_a_model_whose_worker_fails_to_fetch_it_is_fetched_by_the_one_who_waits(worker, source):
    broken = FakeSource()
    broken.add(1)
    broken.fail_at = 0
    begun, go_on = threading.Event(), threading.Event()

    def slow(downloads):
        begun.set()
        assert go_on.wait(10)

    broken.before_fetch = slow
    one, other = worker(broken), worker()
    failed = []

    def fail():
        with pytest.raises(WorkerError) as caught:
            one.prepare(source.list(1), {})
        failed.append(caught.value)

    first = threading.Thread(target=fail)
    first.start()
    assert begun.wait(10)
    result = other.prepare(source.list(1), {}, report=lambda files: go_on.set())
    first.join()
    assert failed
    assert named(result.downloaded) == ["loras/m1.safetensors"]


def test_a_model_that_came_between_the_look_and_the_claim_is_not_fetched_again(worker, source, monkeypatch):
    one, other = worker(), worker()
    claim = one._leases.claim

    def late(*args):
        other.prepare(source.list(1), {}, prune=False)
        return claim(*args)

    monkeypatch.setattr(one._leases, "claim", late)
    assert named(one.prepare(source.list(1), {}).ready) == ["loras/m1.safetensors"]
    assert source.fetched == ["m1.safetensors"]


def test_a_job_that_waits_for_another_worker_can_be_cancelled(worker, source, root):
    claims_of(root, process_id(), fetching=["civitai:1:10"])
    stop = Stop()
    with pytest.raises(StoppedError):
        worker().prepare(source.list(1), {}, stop=stop, report=lambda files: stop.set())


def test_a_dead_workers_claims_count_for_nothing_and_are_removed(worker, source, root):
    worker().prepare(source.list(1), {})
    host = process_id().rsplit("-", 2)[0]
    left = claims_of(root, f"{host}-{2**22 + 1}-1", using=[str(FILE)], fetching=["civitai:2:20"])
    other = worker()
    for path in (root / LEASES_PATH).glob(f"{process_id()}-*"):
        path.unlink()
    assert named(other.prepare(source.list(2), {}).pruned) == [str(FILE)]
    assert not left.exists()


def test_nothing_is_written_for_a_job_that_uses_no_models_and_nothing_is_left_after_one_that_does(worker, source, root):
    one = worker()
    one.prepare("", {})
    assert not root.exists()
    one.prepare(source.list(1), {})
    assert len(list((root / LEASES_PATH).iterdir())) == 1
    one.release()
    assert list((root / LEASES_PATH).iterdir()) == []
    one.release()


def test_a_folder_that_cannot_be_written_is_a_warning_and_no_end(worker, source, monkeypatch, caplog):
    def refused(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    one = worker()
    one.prepare(source.list(1), {})
    one.release()
    monkeypatch.setattr("worker.models.leases.folder_lock", refused)
    with caplog.at_level(logging.WARNING):
        assert len(one.prepare(source.list(1), {}).ready) == 1
    assert "claims on models cannot be written" in caplog.text
