from __future__ import annotations

import threading

import pytest

from tests.support.civitai_server import Canned
from tests.support.downloading import SMALL, add
from tests.support.model_rig import Rig
from tests.support.waiting import wait_until
from worker.downloads.source import RESOLVERS
from worker.errors import Code, WorkerError
from worker.net.retry import Retry
from worker.sites.types import RepoLine
from worker.stop import Stop, StoppedError


def link(version: int) -> str:
    return f"https://civitai.com/api/download/models/{version}"


def test_lines_are_looked_up_at_once_and_the_first_bad_one_is_the_error(server, rig):
    good = [server.add_model(f"m{n}.safetensors", SMALL) for n in range(20)]
    files = rig.resolve("\n".join(link(version) for version in good))
    assert [file.filename for file in files] == [f"m{n}.safetensors" for n in range(20)]
    server.file(good[5]).pickle_scan = "Danger"
    server.file(good[9]).pickle_scan = "Danger"
    with pytest.raises(WorkerError, match="line 6 "):
        rig.resolve("\n".join(link(version) for version in good))


def test_the_earliest_line_that_could_not_be_looked_up_is_the_error(rig, monkeypatch):
    line_3_failed = threading.Event()

    def resolve(line: RepoLine, *_: object) -> None:
        if line.number == 3:
            line_3_failed.set()
        assert line_3_failed.wait(30)
        raise WorkerError(Code.MODEL_NOT_FOUND, f"line {line.number} is not there")

    monkeypatch.setitem(RESOLVERS, "civitai", resolve)
    with pytest.raises(WorkerError, match="line 1 is not there"):
        rig.resolve("\n".join(link(version) for version in (1, 2, 3)))


def test_cancelling_ends_a_look_up_as_well(server, tmp_path):
    rig = Rig(server, tmp_path, retry=Retry(first_s=30.0))
    text, _file = add(server)
    version = next(iter(server.versions.values()))
    version.metadata_always = Canned(500)
    stop = Stop()

    def cancel() -> None:
        wait_until(lambda: server.requests)
        stop.set()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(StoppedError):
        rig.resolve(text, stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lookup-")]
    assert len(server.requests) == 1


def test_models_on_a_network_volume_are_synced(server, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("worker.downloads.source.NETWORK_VOLUME", tmp_path)
    monkeypatch.setattr("os.fsync", synced.append)
    text, _ = add(server)
    Rig(server, tmp_path / "models").fetch(text)
    assert len(synced) == 1
