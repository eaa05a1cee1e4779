"""A job that fails or is cancelled half way: nothing goes, what was finished stays and is known again."""

import pytest

from tests.support.model_bench import named, tree
from worker.errors import WorkerError
from worker.stop import Stop, StoppedError


def test_a_line_that_cannot_be_read_prunes_nothing(stocked, source, root):
    with pytest.raises(WorkerError, match="INVALID_REPO_LIST"):
        stocked().prepare(source.list(2) + "\nlora ftp://nowhere/x", {})
    assert (root / "loras/m1.safetensors").exists()


def test_a_line_that_cannot_be_resolved_prunes_nothing(stocked, source, root):
    with pytest.raises(WorkerError, match="MODEL_NOT_FOUND"):
        stocked().prepare(source.list(2, 99), {})
    assert (root / "loras/m1.safetensors").exists()


def test_a_failed_download_prunes_nothing_and_keeps_what_was_finished(stocked, source, root):
    for version in (3, 4):
        source.add(version)
    worker = stocked()
    source.fail_at = 1
    with pytest.raises(WorkerError, match="DOWNLOAD_FAILED"):
        worker.prepare(source.list(3, 4), {})
    assert list(tree(root)) == [f"loras/m{version}.safetensors" for version in (1, 2, 3)]
    source.fail_at = None
    result = worker.prepare(source.list(3, 4), {})
    assert (named(result.ready), named(result.downloaded)) == (["loras/m3.safetensors"], ["loras/m4.safetensors"])


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_finished_of_a_failed_job_is_kept_though_the_site_says_nothing_of_it(manager, source, root, restart):
    for version in (1, 2):
        source.add(version, size=None, sha256=None, published=False)
    worker = manager()
    source.fail_at = 1
    with pytest.raises(WorkerError, match="DOWNLOAD_FAILED"):
        worker.prepare(source.list(1, 2), {})
    source.fail_at = None
    worker = manager() if restart else worker
    assert named(worker.prepare(source.list(1, 2), {}).ready) == ["loras/m1.safetensors"]
    source.add(3)
    assert len(manager().prepare(source.list(3), {}).pruned) == 2, "and it is not taken for baked after a restart"


def test_a_cancelled_download_prunes_nothing_and_keeps_what_was_finished(stocked, source, root):
    source.add(3)
    source.add(4)
    worker, stop = stocked(), Stop()
    fetch = source.fetch

    def cancelled(downloads, stop, report):
        fetch(downloads[:1], stop, report)
        stop.set()
        stop.check()

    source.fetch = cancelled
    with pytest.raises(StoppedError):
        worker.prepare(source.list(3, 4), {}, stop=stop)
    assert list(tree(root)) == [f"loras/m{version}.safetensors" for version in (1, 2, 3)]
    source.fetch = fetch
    assert named(worker.prepare(source.list(3, 4), {}, prune=False).ready) == ["loras/m3.safetensors"]
