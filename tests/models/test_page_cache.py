"""Reading ahead: only what fits into free memory, and never in anybody's way."""

import os

import pytest

from worker.models import page_cache as module
from worker.models.page_cache import LEAVE_BYTES, ReadAhead, choose_fitting, free_memory

MB = 1 << 20


@pytest.fixture
def machine(tmp_path):
    """A pretended /proc and /sys/fs/cgroup; call it with what they should say."""

    def make(available_kb=8 * 1024 * 1024, **files):
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
        (cgroup / "memory").mkdir(parents=True)
        proc.mkdir()
        (proc / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available_kb} kB\n")
        for name, text in files.items():
            (cgroup / name.replace("__", "/").replace("_dot_", ".")).write_text(str(text))
        return proc, cgroup

    return make


def test_without_a_limit_the_machines_free_memory_counts(machine):
    assert free_memory(*machine(memory_dot_max="max\n", memory_dot_current="5")) == 8 << 30


def test_a_containers_limit_counts_and_old_page_cache_gives_way(machine):
    stat = "anon 5\ninactive_file 1000\nactive_file 7\n"
    limited = machine(memory_dot_max=10_000, memory_dot_current=6_000, memory_dot_stat=stat)
    assert free_memory(*limited) == 5_000


def test_the_older_kind_of_control_group_counts_too(machine):
    limited = machine(
        memory__memory_dot_limit_in_bytes=10_000,
        memory__memory_dot_usage_in_bytes=9_000,
        memory__memory_dot_stat="inactive_file 1\ntotal_inactive_file 500\n",
    )
    assert free_memory(*limited) == 1_500


def test_a_machine_that_says_nothing_has_no_memory_to_spare(tmp_path):
    assert free_memory(tmp_path, tmp_path) == 0


def test_files_that_do_not_fit_whole_are_left_out(tmp_path):
    files = [(tmp_path / "a", 5), (tmp_path / "b", 9), (tmp_path / "c", 3)]
    assert choose_fitting(files, 8) == [tmp_path / "a", tmp_path / "c"]
    assert choose_fitting(files, -1) == []


def model(folder, name, size=3 * MB + 5):
    path = folder / name
    path.write_bytes(b"\0" * size)
    return path, size


def test_files_are_read_to_their_end(tmp_path):
    files = [model(tmp_path, "a"), model(tmp_path, "b", 10)]
    reader = ReadAhead(files, budget=10 * MB)
    reader.join()
    assert reader.bytes == 3 * MB + 15


def test_a_system_without_fadvise_reads_instead(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise")
    with ReadAhead([model(tmp_path, "a")], budget=10 * MB) as reader:
        reader.join()
    assert reader.bytes == 3 * MB + 5


def test_a_file_that_vanished_is_no_error(tmp_path):
    reader = ReadAhead([(tmp_path / "gone", 1), model(tmp_path, "a", 7)], budget=MB)
    reader.join()
    assert reader.bytes == 7


def test_closing_stops_at_the_next_step(tmp_path, monkeypatch):
    """Told to stop while one step is under way, it does no second one."""
    path, size = model(tmp_path, "a")
    made = []

    def advise(*_):
        made.append(1)
        reader._stop.set()

    monkeypatch.setattr(module.os, "posix_fadvise", advise, raising=False)
    reader = ReadAhead([], budget=0)
    reader.paths = [path, path]
    reader._thread.start()
    reader.join()
    reader.close()
    reader.close()
    assert (len(made), reader.bytes) == (1, MB)
    assert reader.bytes < size


def test_nothing_is_read_when_memory_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: LEAVE_BYTES - 1)
    with ReadAhead([model(tmp_path, "a")]) as reader:
        assert reader.paths == []
