"""Fetching one job's models: what the manifest says before, after, and when a download fails."""

import pytest

from tests.support.inventories import wanted
from tests.support.model_bench import FakeSource, claims_of, put, tree
from worker.downloads.pool import path_taken_error
from worker.errors import WorkerError
from worker.models import fetch as module
from worker.models.ensure_state import ModelJob
from worker.models.fetch import ModelFetcher
from worker.models.inventory import ModelFolders
from worker.models.leases import Leases
from worker.models.locations import Location
from worker.models.prompt_names import Mentions
from worker.models.prune_rules import PrunePlan
from worker.process_id import process_id
from worker.stop import Stop, StoppedError

ONE, TWO = Location("loras", "m1.safetensors"), Location("loras", "m2.safetensors")


class Room:
    """A pruner that only remembers how many bytes were asked for."""

    def __init__(self):
        self.needed = []

    def make_room(self, job, inventory, needed, pruning):
        self.needed.append(needed)


class Fetching:
    """A fetcher with a made-up source, and the job that it fetches for."""

    def __init__(self, root):
        self.folders, self.source, self.room = ModelFolders(root), FakeSource(), Room()
        self.leases, self.reports = Leases(root), []
        self.fetcher = ModelFetcher(self.folders, self.source, self.leases, self.room)
        self.job = ModelJob([], Mentions(), True, Stop(), self.reports.append, lambda: True, 0, False)
        self.wants = {}
        for version, location in ((1, ONE), (2, TWO)):
            size = len(self.source.add(version))
            self.wants[wanted(f"civitai:{version}:{version * 10}", location.name, key=f"k{version}", size=size)] = (
                location
            )

    def fetch(self):
        return self.fetcher.fetch(self.job, self.folders.read(), {}, self.wants, PrunePlan())


@pytest.fixture
def fetching(root):
    return Fetching(root)


def test_models_are_pending_while_they_are_fetched_and_downloaded_afterwards(fetching):
    before = []
    fetching.source.before_fetch = lambda downloads: before.append(fetching.folders.read(fresh=True).pending)
    fetched = fetching.fetch()
    assert set(before[0]) == {ONE, TWO}
    entries = fetching.folders.read(fresh=True).entries
    assert {location: entry.origin for location, entry in entries.items()} == {ONE: "downloaded", TWO: "downloaded"}
    assert fetched == entries
    assert fetching.room.needed == [sum(want.file.size for want in fetching.wants)]


def test_with_nothing_to_fetch_no_room_is_made_and_changes_are_still_written(fetching, root):
    fetching.wants = {}
    assert fetching.fetch() == {}
    assert fetching.room.needed == fetching.source.fetched == []


def test_of_a_failed_job_the_finished_models_stay_pending_and_the_others_are_forgotten(fetching):
    fetching.source.fail_at = 1
    with pytest.raises(WorkerError, match="DOWNLOAD_FAILED"):
        fetching.fetch()
    assert set(fetching.folders.read(fresh=True).pending) == {ONE}


def test_a_location_that_another_worker_filled_meanwhile_is_reported_as_a_conflict(fetching, root):
    def fill(downloads):
        put(root, str(ONE), b"other bytes")
        raise path_taken_error(downloads[0])

    fetching.source.before_fetch = fill
    assert fetching.fetch() == {}
    assert fetching.job.name_conflicts == {ONE}
    assert fetching.folders.read(fresh=True).pending == {}
    assert tree(root) == {str(ONE): b"other bytes"}


def test_a_file_that_is_another_after_the_download_is_not_counted(fetching, root):
    fetch = fetching.source.fetch

    def replaced(downloads, stop, report):
        done = fetch(downloads, stop, report)
        put(root, str(TWO), b"other bytes")
        return done

    fetching.source.fetch = replaced
    assert set(fetching.fetch()) == {ONE}
    assert TWO not in fetching.folders.read(fresh=True).entries


@pytest.mark.parametrize("fails", [False, True])
def test_claims_on_downloads_end_with_them(fetching, root, fails):
    fetching.leases.claim([ONE], ["civitai:1:10"], 60)
    assert Leases(root).others().fetching == {"civitai:1:10"}
    if fails:
        fetching.source.fail_at = 0
        with pytest.raises(WorkerError):
            fetching.fetch()
    else:
        fetching.fetch()
    claims = Leases(root).others()
    assert (claims.using, claims.fetching) == ({ONE}, frozenset())


def test_downloads_of_other_workers_are_waited_for_until_their_claims_end(fetching, root, monkeypatch):
    claim = claims_of(root, process_id(), fetching=["civitai:1:10"])
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            claim.unlink()

    monkeypatch.setattr(fetching.job.stop, "sleep", sleep)
    fetching.fetcher.wait_for_others(fetching.job, list(fetching.wants))
    assert waits == [module.POLL_EVERY_S] * 2
    assert [file.name for file in fetching.reports[0]] == [ONE.name, TWO.name]


def test_waiting_for_other_workers_can_be_stopped(fetching, root):
    claims_of(root, process_id(), fetching=["civitai:1:10"])
    fetching.job.stop.set()
    with pytest.raises(StoppedError):
        fetching.fetcher.wait_for_others(fetching.job, list(fetching.wants))


def test_partial_files_of_killed_downloads_are_removed_and_models_are_not(fetching, root):
    host = process_id().rsplit("-", 2)[0]
    part = put(root, f"loras/.m1.safetensors.{host}-{2**22 + 1}-1-0123abcd.part")
    model = put(root, "loras/a.safetensors")
    fetching.fetcher.sweep()
    assert (part.exists(), model.exists()) == (False, True)
