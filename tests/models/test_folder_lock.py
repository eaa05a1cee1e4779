"""One worker at a time holds the lock of a models folder; one that cannot get it goes on without."""

import errno
import fcntl
import threading

from worker.models import folder_lock as module
from worker.models.folder_lock import LOCK_PATH, folder_lock


def test_a_lock_that_somebody_hangs_with_or_a_disk_without_locks_does_not_stop_a_job(root, monkeypatch, caplog):
    monkeypatch.setattr(module, "WAIT_S", 0.02)
    with folder_lock(root), folder_lock(root):
        assert "going on without" in caplog.text

    def unknown(lock, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with folder_lock(root):
        pass


def test_only_one_holds_the_lock(root):
    inside, most = [], []

    def work():
        for _ in range(20):
            with folder_lock(root):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (80, 1)
    assert [path.name for path in (root / LOCK_PATH).parent.iterdir()] == ["lock"]
