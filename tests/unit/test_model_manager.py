"""A worker's models over whole jobs: what is fetched, what is left, what is never touched. Its source is a fake."""

import json
import logging
import os
import random
import struct
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from model_manager import ModelManager
from worker import prune
from worker.cancel import Stop, Stopped
from worker.downloads import taken_error
from worker.errors import Code, WorkerError
from worker.manifest import MANIFEST_PATH
from worker.model_types import Downloaded, ModelFile
from worker.settings import Settings

TOKEN = "t0ken-that-nobody-may-see"
HOUR_NS = 3600 * 10**9


def model_bytes(seed, size=4096):
    """A small but whole safetensors file."""
    body = random.Random(seed).randbytes(size)
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + body


def put(root, name, data, age_ns=HOUR_NS):
    path = Path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then = path.stat().st_mtime_ns - age_ns
    os.utime(path, ns=(then, then))
    return path


class FakeSource:
    """Knows models by version number; brings them as a download does: whole files, atomically."""

    def __init__(self):
        self.models = {}
        self.resolved = []
        self.fetched = []
        self.before_fetch = lambda downloads: None
        self.fail_at = None

    def add(self, version, folder="loras", name=None, data=None, **more):
        data = model_bytes(version) if data is None else data
        more = {"size": len(data), "sha256": sha256(data).hexdigest(), **more}
        identity = f"civitai:{version}:{version * 10}"
        self.models[version] = (identity, folder, name or f"m{version}.safetensors", data, more)
        return data

    def line(self, version, suffix=""):
        return f"https://civitai.com/api/download/models/{version}{suffix}"

    def list(self, *versions):
        return "\n".join(self.line(version) for version in versions)

    def resolve(self, lines, stop):
        stop.check()
        return [self._file(line) for line in lines]

    def _file(self, line):
        version = int(line.url.rpartition("/")[2])
        self.resolved.append(version)
        if version not in self.models:
            raise WorkerError(Code.MODEL_NOT_FOUND, f"line {line.number}: no such model")
        identity, folder, name, _, more = self.models[version]
        url = f"https://user:{TOKEN}@cdn.example/{version}?token={TOKEN}"
        return ModelFile(identity, line.folder or folder, line.filename or name, url, line, **more)

    def fetch(self, downloads, stop, report):
        self.before_fetch(downloads)
        done = []
        for number, download in enumerate(downloads):
            stop.check()
            if number == self.fail_at:
                raise WorkerError(Code.DOWNLOAD_FAILED, "the network is down")
            data = self.models[int(download.file.identity.split(":")[1])][3]
            assert not os.path.lexists(download.path), "new bytes must never take the path of other bytes"
            download.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = download.path.with_name(f".{download.path.name}.part")
            temporary.write_bytes(data)
            temporary.replace(download.path)
            self.fetched.append(download.path.name)
            done.append(Downloaded(download.file, download.path, len(data), sha256(data).hexdigest()))
        return done


@pytest.fixture
def source():
    return FakeSource()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def manager(root, source):
    """Makes managers of one models folder, as workers that start one after another would be."""

    def make(environ=None, **more):
        settings = Settings.from_environ(
            {"COMFYUI_URL": "http://127.0.0.1:1", "MODELS_DIR": str(root), "CIVITAI_TOKEN": TOKEN, **(environ or {})}
        )
        more.setdefault("volume", Path("/no/such/volume"))
        return ModelManager(settings, source, **more)

    return make


def tree(root):
    """Every file below the root and its bytes, the manifest aside."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(Path(root).rglob("*"))
        if path.is_file() and ".comfy-worker" not in path.parts
    }


def named(facts):
    return sorted(f"{each['folder']}/{each['name']}" for each in facts)


def unhurried(worker):
    """The worker in a world where no other worker used a file within the last job's time."""
    worker._pruner.settings = replace(worker.settings, job_timeout_s=-3600)
    return worker


def lora(name):
    return {"1": {"class_type": "LoraLoader", "inputs": {"lora_name": name}}}


# --- ensure ---------------------------------------------------------------------------------------------------------


def test_missing_models_are_fetched_under_their_canonical_names(manager, source, root):
    first, second = source.add(1), source.add(2, "checkpoints", "big.safetensors")
    result = manager().prepare(source.list(1, 2), {})
    assert tree(root) == {"loras/m1.safetensors": first, "checkpoints/big.safetensors": second}
    assert named(result.downloaded) == ["checkpoints/big.safetensors", "loras/m1.safetensors"]
    assert result.downloaded[0] == {
        "name": "m1.safetensors",
        "folder": "loras",
        "bytes": len(first),
        "identity": "civitai:1:10",
        "sha256": sha256(first).hexdigest(),
    }
    assert (result.ready, result.pruned, result.warnings) == ([], [], [])


def test_when_all_is_there_nobody_is_asked(manager, source):
    source.add(1)
    worker = manager()
    worker.prepare(source.list(1), {})
    source.resolved.clear()
    again = worker.prepare(source.list(1), {})
    assert named(again.ready) == ["loras/m1.safetensors"]
    assert (again.downloaded, source.resolved) == ([], [])
    assert named(manager().prepare(source.list(1), {}).ready) == ["loras/m1.safetensors"]
    assert source.resolved == []


@pytest.mark.parametrize("harm", ["gone", "truncated", "other bytes of the same size"])
def test_a_model_that_is_gone_or_changed_is_fetched_again(manager, source, root, harm):
    data = source.add(1)
    worker = manager()
    worker.prepare(source.list(1), {})
    path = root / "loras/m1.safetensors"
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:100] if harm == "truncated" else data[:-1] + b"x")
    result = worker.prepare(source.list(1), {}, prune=False)
    name = "m1.safetensors" if harm == "gone" else "m1.10.safetensors"
    assert named(result.downloaded) == [f"loras/{name}"]
    assert (root / "loras" / name).read_bytes() == data


def test_an_empty_list_or_skip_changes_nothing(manager, source, root):
    source.add(1)
    put(root, "loras/other.safetensors", b"x")
    worker = manager()
    put(root, "loras/unlisted.safetensors", b"x")
    before = tree(root)
    for repo_list, skip in (("", False), ("\n# nothing\n", False), (source.list(1), True)):
        result = worker.prepare(repo_list, {}, skip=skip)
        assert (result.ready, result.downloaded, result.pruned) == ([], [], [])
    assert tree(root) == before
    assert source.resolved == []


def test_two_different_files_of_one_name_in_one_run(manager, source, root):
    source.add(1, name="flux.safetensors")
    source.add(2, name="flux.safetensors")
    worker = manager()
    assert named(worker.prepare(source.list(1, 2), {}).downloaded) == [
        "loras/flux.20.safetensors",
        "loras/flux.safetensors",
    ]
    assert (root / "loras/flux.safetensors").read_bytes() == model_bytes(1)
    assert named(worker.prepare(source.list(1, 2), {}).ready) == ["loras/flux.20.safetensors", "loras/flux.safetensors"]


def test_one_file_asked_for_by_several_lines_is_fetched_once(manager, source):
    source.add(1)
    text = "\n".join([source.line(1), source.line(1), source.line(1, " as mine.safetensors")])
    worker = manager()
    result = worker.prepare(text, {})
    assert named(result.downloaded) == ["loras/m1.safetensors"]
    assert "mine.safetensors" in result.names.aliases["loras"]["m1.safetensors"]
    source.resolved.clear()
    assert named(worker.prepare(source.line(1, " as mine.safetensors"), {}).ready) == ["loras/m1.safetensors"]
    assert source.resolved == []


def test_one_file_asked_for_in_two_folders_is_put_into_both(manager, source, root):
    put(root, "checkpoints/m1.safetensors", source.add(1))
    text = f"ckpt {source.line(1)}\nunet {source.line(1)}"
    result = manager().prepare(text, {})
    assert named(result.ready) == ["checkpoints/m1.safetensors"]
    assert named(result.downloaded) == ["diffusion_models/m1.safetensors"]


def test_a_present_file_under_a_new_line_is_not_fetched_again(manager, source):
    source.add(1)
    worker = manager()
    worker.prepare(source.list(1), {})
    result = worker.prepare(source.line(1, " as other.safetensors"), {})
    assert named(result.ready) == ["loras/m1.safetensors"]
    assert result.names.aliases["loras"]["m1.safetensors"][0] == "other.safetensors"


def test_a_listed_model_whose_name_others_hold_is_what_the_name_means_in_this_job(manager, source, root):
    source.add(1, name="flux.safetensors")
    put(root, "loras/flux.safetensors", b"baked, other bytes")
    result = manager().prepare(source.list(1), {})
    assert named(result.downloaded) == ["loras/flux.10.safetensors"]
    assert result.names.renamed == {"loras": {"flux.safetensors": "flux.10.safetensors"}}
    assert (root / "loras/flux.safetensors").read_bytes() == b"baked, other bytes"


def test_a_model_of_unknown_size_is_taken_as_it_comes(manager, source, root):
    data = source.add(1, size=None, sha256=None, published=False)
    worker = manager()
    assert worker.prepare(source.list(1), {}).downloaded[0]["bytes"] == len(data)
    assert named(worker.prepare(source.list(1), {}).ready) == ["loras/m1.safetensors"]


# --- recognising what was there before ------------------------------------------------------------------------------


def test_a_lost_manifest_is_rebuilt_without_fetching(manager, source, root):
    source.add(1, name="same.safetensors")
    source.add(2, name="same.safetensors")
    manager().prepare(source.list(1, 2), {})
    for harm in (lambda path: path.unlink(), lambda path: path.write_text("{broken")):
        harm(root / MANIFEST_PATH)
        source.fetched.clear()
        result = manager().prepare(source.list(1, 2), {})
        assert source.fetched == []
        assert named(result.ready) == ["loras/same.20.safetensors", "loras/same.safetensors"]
        identities = {each["name"]: each["identity"] for each in result.ready}
        assert identities == {"same.safetensors": "civitai:1:10", "same.20.safetensors": "civitai:2:20"}


def test_a_file_with_the_right_name_and_size_but_other_bytes_is_not_adopted(manager, source, root):
    data = source.add(1)
    put(root, "loras/m1.safetensors", data[:-1] + bytes([data[-1] ^ 1]))
    assert named(manager().prepare(source.list(1), {}).downloaded) == ["loras/m1.10.safetensors"]


def test_without_a_published_hash_the_header_must_be_whole(manager, source, root):
    data = source.add(1, sha256=None)
    source.add(2, sha256=None, data=b"<html>" + b"x" * 100)
    put(root, "loras/m1.safetensors", data)
    put(root, "loras/m2.safetensors", b"<html>" + b"x" * 100)
    result = manager().prepare(source.list(1, 2), {})
    assert named(result.ready) == ["loras/m1.safetensors"]
    assert named(result.downloaded) == ["loras/m2.20.safetensors"]


def test_one_file_is_never_adopted_as_two_models(manager, source, root):
    data = source.add(1, name="same.safetensors", sha256=None)
    source.add(2, name="same.safetensors", sha256=None)
    put(root, "loras/same.safetensors", data)
    result = manager().prepare(source.list(1, 2), {})
    assert (named(result.ready), named(result.downloaded)) == (
        ["loras/same.safetensors"],
        ["loras/same.20.safetensors"],
    )


def test_a_file_in_a_subfolder_is_adopted_where_it_is(manager, source, root):
    put(root, "loras/xl/m1.safetensors", source.add(1))
    result = manager().prepare(source.list(1), {})
    assert named(result.ready) == ["loras/xl/m1.safetensors"]
    assert source.fetched == []


def test_a_symlinked_model_is_adopted_and_survives(manager, source, root, tmp_path):
    target = put(tmp_path, "elsewhere/m1.safetensors", source.add(1))
    source.add(2)
    (root / "loras").mkdir(parents=True)
    (root / "loras/m1.safetensors").symlink_to(target)
    worker = manager()
    assert named(worker.prepare(source.list(1), {}).ready) == ["loras/m1.safetensors"]
    assert worker.prepare(source.list(2), {}).pruned == []
    assert target.exists()
    assert (root / "loras/m1.safetensors").is_symlink()


def test_a_dangling_symlink_is_not_present_and_its_name_not_taken(manager, source, root):
    source.add(1)
    (root / "loras").mkdir(parents=True)
    (root / "loras/m1.safetensors").symlink_to(root / "nowhere")
    assert named(manager().prepare(source.list(1), {}).downloaded) == ["loras/m1.10.safetensors"]
    assert (root / "loras/m1.safetensors").is_symlink()


# --- prune ----------------------------------------------------------------------------------------------------------


def test_after_the_listed_models_are_there_the_others_go(manager, source, root):
    for version in (1, 2, 3):
        source.add(version)
    worker = manager()
    worker.prepare(source.list(1, 2), {})
    result = worker.prepare(source.list(2, 3), {})
    assert list(tree(root)) == ["loras/m2.safetensors", "loras/m3.safetensors"]
    assert named(result.pruned) == ["loras/m1.safetensors"]
    assert (named(result.ready), named(result.downloaded)) == (["loras/m2.safetensors"], ["loras/m3.safetensors"])


@pytest.fixture
def stocked(manager, source, root):
    """A worker that brought models 1 and 2; a job that lists 2 alone would prune 1."""

    def make(environ=None, **more):
        source.add(1)
        source.add(2)
        worker = manager(environ, **more)
        worker.prepare(source.list(1, 2), {}, prune=False)
        return worker

    return make


def test_models_of_this_prompt_survive_a_list_without_them(stocked, source, root):
    stocked().prepare(source.list(2), lora("XL\\M1 (1).safetensors"))
    assert (root / "loras/m1.safetensors").exists()


def test_prune_false_in_the_job_prunes_nothing(stocked, source, root):
    stocked().prepare(source.list(2), {}, prune=False)
    assert (root / "loras/m1.safetensors").exists()


def test_the_jobs_own_word_on_pruning_overrides_the_environment(stocked, source, root):
    worker = stocked({"PRUNE": "0"})
    worker.prepare(source.list(2), {})
    assert (root / "loras/m1.safetensors").exists()
    worker.prepare(source.list(2), {}, prune=True)
    assert not (root / "loras/m1.safetensors").exists()


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


@pytest.mark.parametrize("said", [{"sha256": None}, {"size": None, "sha256": None, "published": False}])
def test_bytes_that_another_worker_put_at_a_path_meanwhile_are_not_taken_for_ours(manager, source, root, said):
    """The download finds the name taken and fails; what is there looks as good, but it is another."""
    data = source.add(1, **said)
    other = data[:-1] + bytes([data[-1] ^ 1])

    def taken(downloads):
        source.before_fetch = lambda downloads: None
        put(root, "loras/m1.safetensors", other)
        raise taken_error(downloads[0])

    source.before_fetch = taken
    worker = manager()
    assert named(worker.prepare(source.list(1), {}).downloaded) == ["loras/m1.10.safetensors"]
    assert tree(root) == {"loras/m1.safetensors": other, "loras/m1.10.safetensors": data}
    if "size" in said:  # a size and a header would be enough for another job to take it
        (root / "loras/m1.10.safetensors").unlink()
        assert named(worker.prepare(source.list(1), {}).downloaded) == ["loras/m1.10.safetensors"]


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
    with pytest.raises(Stopped):
        worker.prepare(source.list(3, 4), {}, stop=stop)
    assert list(tree(root)) == [f"loras/m{version}.safetensors" for version in (1, 2, 3)]
    source.fetch = fetch
    assert named(worker.prepare(source.list(3, 4), {}, prune=False).ready) == ["loras/m3.safetensors"]


def test_another_running_job_prevents_pruning(stocked, source, root):
    worker = stocked()
    worker.prepare(source.list(2), {}, alone=lambda: False)
    assert (root / "loras/m1.safetensors").exists()


def test_another_job_that_began_during_the_download_prevents_pruning(stocked, source, root):
    source.add(3)
    worker = stocked()
    alone = [True]
    source.before_fetch = lambda downloads: alone.clear()
    worker.prepare(source.list(3), {}, alone=lambda: bool(alone))
    assert (root / "loras/m1.safetensors").exists()


def test_a_shared_volume_is_never_pruned_unless_named(stocked, source, root):
    worker = unhurried(stocked(volume=root.parent))
    assert worker.prepare(source.list(2), {}, prune=True).pruned == []
    assert (root / "loras/m1.safetensors").exists()


def test_a_shared_volume_that_is_reached_through_a_symlink_is_still_shared(manager, source, root, tmp_path):
    source.add(2)
    (tmp_path / "volume" / "models").mkdir(parents=True)
    root.symlink_to(tmp_path / "volume" / "models")
    worker = unhurried(manager(volume=tmp_path / "volume"))
    put(root, "loras/m1.safetensors", b"another worker's")
    assert worker.prepare(source.list(2), {}).pruned == []
    assert (root / "loras/m1.safetensors").exists()


def test_a_shared_volume_that_prune_roots_names_is_pruned_of_what_nobody_used_lately(manager, source, root):
    source.add(1)
    source.add(2)
    put(root, "loras/m1.safetensors", b"long there")
    worker = manager({"PRUNE_ROOTS": str(root.parent), "JOB_TIMEOUT_S": "1"}, volume=root.parent)
    used = worker.prepare(source.list(2), {}).pruned
    assert used == [], "its inode is a moment old: another worker may just have brought it"
    assert named(unhurried(worker).prepare(source.list(2), {}).pruned) == ["loras/m1.safetensors"]


def test_what_was_baked_into_the_image_is_never_pruned(manager, source, root):
    put(root, "checkpoints/baked.safetensors", b"baked")
    put(root, "loras/sub/by hand.safetensors", b"by hand")
    source.add(1)
    worker = manager()
    worker.prepare(source.list(1), {})
    manager().prepare(source.list(1), {})
    assert {"checkpoints/baked.safetensors", "loras/sub/by hand.safetensors"} <= tree(root).keys()


def test_a_baked_model_that_was_listed_once_is_still_baked_after_a_restart(manager, source, root):
    put(root, "loras/m1.safetensors", source.add(1))
    source.add(2)
    manager().prepare(source.list(1), {})
    manager().prepare(source.list(2), {})
    assert (root / "loras/m1.safetensors").exists()


def test_models_that_a_worker_brought_while_the_image_was_built_are_baked(manager, source, root, monkeypatch):
    """An image may be filled with ``ensure``: its manifest then lists them as downloaded, but on another host."""
    source.add(1)
    source.add(2)
    monkeypatch.setattr("worker.plan.THIS_HOST", "buildkitsandbox")
    manager().prepare(source.list(1), {})
    monkeypatch.undo()
    assert manager().prepare(source.list(2), {}).pruned == []
    assert named(manager().prepare(source.list(1), {}).ready) == ["loras/m1.safetensors"]
    assert (root / "loras/m1.safetensors").exists()


def test_what_a_worker_brought_is_not_baked_after_a_restart(manager, source, root):
    source.add(1)
    source.add(2)
    manager().prepare(source.list(1), {})
    assert named(manager().prepare(source.list(2), {}).pruned) == ["loras/m1.safetensors"]


def test_what_a_killed_worker_brought_is_not_baked_after_a_restart(manager, source, root):
    """The worker died after the file had appeared and before it could note that."""
    data = source.add(1)
    source.add(2)
    worker = manager()
    source.before_fetch = lambda downloads: (_ for _ in ()).throw(KeyboardInterrupt)
    worker.folders.commit = lambda changes, commit=worker.folders.commit: (
        changes and any(changes.values()) and commit(changes)
    )
    with pytest.raises(KeyboardInterrupt):
        worker.prepare(source.list(1), {})
    put(root, "loras/m1.safetensors", data)
    source.before_fetch = lambda downloads: None
    assert named(manager().prepare(source.list(2), {}).pruned) == ["loras/m1.safetensors"]


def test_with_the_manifest_lost_everything_there_is_precious(manager, source, root):
    source.add(1)
    source.add(2)
    manager().prepare(source.list(1), {})
    (root / MANIFEST_PATH).unlink()
    assert manager().prepare(source.list(2), {}).pruned == []
    assert (root / "loras/m1.safetensors").exists()


def test_a_file_put_there_during_the_job_is_kept(stocked, source, root):
    source.add(3)
    worker = stocked()
    source.before_fetch = lambda downloads: put(root, "loras/new.safetensors", b"x", age_ns=0)
    worker.prepare(source.list(3), {})
    assert (root / "loras/new.safetensors").exists()


def test_a_file_replaced_after_the_plan_was_made_is_kept(stocked, source, root):
    source.add(3)
    worker = stocked()

    def replaced(downloads):
        put(root, "loras/new", b"other bytes, maybe precious", age_ns=0).replace(root / "loras/m1.safetensors")

    source.before_fetch = replaced
    assert worker.prepare(source.list(3), {}).pruned == [
        {"name": "m2.safetensors", "folder": "loras", "bytes": len(model_bytes(2)), "identity": "civitai:2:20"}
    ]
    assert (root / "loras/m1.safetensors").read_bytes() == b"other bytes, maybe precious"


def test_other_folders_and_other_kinds_of_files_are_never_pruned(stocked, source, root, tmp_path):
    precious = ["style_models/s.safetensors", "unet/u.safetensors", "loras/x.ckpt", "loras/x.json", "top.safetensors"]
    worker = stocked()
    for name in precious:
        put(root, name, b"x")
    put(tmp_path, "outside/o.safetensors", b"x")
    (root / "loras/link.safetensors").symlink_to(tmp_path / "outside/o.safetensors")
    (root / "loras/linked").symlink_to(tmp_path / "outside")
    assert named(worker.prepare(source.list(2), {}).pruned) == ["loras/m1.safetensors"]
    assert all((root / name).exists() for name in (*precious, "loras/link.safetensors", "loras/linked/o.safetensors"))


def test_keep_models_and_keep_gb_are_read_from_the_environment(stocked, source, root):
    stocked({"KEEP_MODELS": "m1*"}).prepare(source.list(2), {})
    assert (root / "loras/m1.safetensors").exists()
    stocked({"KEEP_GB": "1"}).prepare(source.list(2), {})
    assert (root / "loras/m1.safetensors").exists()


def test_keep_gb_lets_alternating_jobs_keep_their_models(manager, source):
    source.add(1)
    source.add(2)
    worker = manager({"KEEP_GB": "1"})
    for version in (1, 2, 1, 2):
        worker.prepare(source.list(version), {})
    assert sorted(source.fetched) == ["m1.safetensors", "m2.safetensors"]


def test_a_dry_run_deletes_nothing_and_says_what_would_have_gone(stocked, source, root, caplog):
    caplog.set_level(logging.INFO)
    result = stocked({"PRUNE_DRY_RUN": "1"}).prepare(source.list(2), {})
    assert (root / "loras/m1.safetensors").exists()
    assert result.pruned == []
    assert "loras/m1.safetensors" in result.warnings[0]
    assert "prune loras/m1.safetensors" in caplog.text


def test_the_plan_is_logged_before_anything_is_deleted(stocked, source, root, caplog):
    caplog.set_level(logging.INFO)
    seen = []
    stocked(release=lambda: seen.append(caplog.text)).prepare(source.list(2), {})
    assert "prune loras/m1.safetensors (4.2 kB)" in seen[0]
    assert "pruned loras/m1.safetensors" not in seen[0]


def test_comfyui_lets_go_once_before_the_first_file_goes_and_not_without_need(stocked, source, root):
    calls = []
    worker = stocked(release=lambda: calls.append((root / "loras/m1.safetensors").exists()))
    worker.prepare(source.list(1, 2), {})
    assert calls == []
    source.add(3)
    worker.prepare(source.list(3), {})
    assert calls == [True]


def test_a_comfyui_that_does_not_answer_does_not_stop_the_pruning(stocked, source, root):
    def broken():
        raise ConnectionError("no ComfyUI")

    stocked(release=broken).prepare(source.list(2), {})
    assert not (root / "loras/m1.safetensors").exists()


def test_a_file_that_cannot_be_deleted_is_a_warning(stocked, source, root, monkeypatch):
    def refused(root, file):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("worker.pruner.delete", refused)
    result = stocked().prepare(source.list(2), {})
    assert result.warnings == ["loras/m1.safetensors could not be pruned: Permission denied"]


def test_a_path_whose_bytes_were_pruned_while_comfyui_lives_is_not_given_to_others(manager, source, root):
    source.add(1, name="flux.safetensors")
    source.add(2, name="flux.safetensors")
    source.add(3)
    worker = manager()
    worker.prepare(source.list(1), {})
    worker.prepare(source.list(3), {})
    result = worker.prepare(source.list(2), {})
    assert named(result.downloaded) == ["loras/flux.20.safetensors"]
    assert result.names.renamed == {"loras": {"flux.safetensors": "flux.20.safetensors"}}
    assert named(worker.prepare(source.list(1), {}).downloaded) == ["loras/flux.safetensors"]


# --- the disk is full -----------------------------------------------------------------------------------------------


def disk_of(root, capacity):
    """The bytes free on a disk of ``capacity`` that holds the models alone."""
    return lambda _: capacity - sum(len(data) for data in tree(root).values())


def test_room_is_made_first_largest_first_and_only_as_much_as_needed(manager, source, root, monkeypatch):
    monkeypatch.setattr(prune, "SPARE_BYTES", 0)
    for version, size in ((1, 1000), (2, 3000), (3, 2000), (4, 2500)):
        source.add(version, data=model_bytes(version, size))
    worker = manager(free_bytes=disk_of(root, 6700))
    worker.prepare(source.list(1, 2, 3), {}, prune=False)
    seen = []
    source.before_fetch = lambda downloads: seen.append(sorted(tree(root)))
    result = worker.prepare(source.list(4), {})
    assert seen == [["loras/m1.safetensors", "loras/m3.safetensors"]]
    assert sorted(tree(root)) == ["loras/m4.safetensors"]
    assert named(result.pruned) == [f"loras/m{version}.safetensors" for version in (1, 2, 3)]


@pytest.mark.parametrize(
    "job", [{"capacity": 5000}, {"prune": False}, {"environ": {"PRUNE_DRY_RUN": "1"}}, {"shared": 1}]
)
def test_a_full_disk_is_an_error_and_nothing_goes_when_room_cannot_or_may_not_be_made(
    manager, source, root, monkeypatch, job
):
    monkeypatch.setattr(prune, "SPARE_BYTES", 0)
    for version, size in ((1, 1000), (2, 3000), (3, 5000)):
        source.add(version, data=model_bytes(version, size))
    volume = root.parent if job.get("shared") else Path("/no/such/volume")
    environ = {"PRUNE_ROOTS": str(root), **job.get("environ", {})}
    worker = manager(environ, volume=volume, free_bytes=disk_of(root, job.get("capacity", 6000)))
    worker.prepare(source.list(1, 2), {}, prune=False)
    unhurried(worker)
    source.fetched.clear()
    with pytest.raises(WorkerError) as caught:
        worker.prepare(source.list(3), {}, prune=job.get("prune"))
    assert caught.value.code is Code.DISK_FULL
    assert caught.value.details["needed_bytes"] == len(model_bytes(3, 5000))
    assert sorted(tree(root)) == ["loras/m1.safetensors", "loras/m2.safetensors"]
    assert source.fetched == []


def test_only_what_is_missing_needs_room(manager, source, root):
    source.add(1, data=model_bytes(1, 100_000))
    worker = manager(free_bytes=lambda _: prune.SPARE_BYTES + 200_000)
    worker.prepare(source.list(1), {})
    source.add(2, data=model_bytes(2, 100))
    worker._pruner._free_bytes = lambda _: prune.SPARE_BYTES + 1000
    assert named(worker.prepare(source.list(1, 2), {}).downloaded) == ["loras/m2.safetensors"]
    worker._pruner._free_bytes = lambda _: 0
    assert len(worker.prepare(source.list(1, 2), {}).ready) == 2


def test_bytes_that_do_not_come_free_end_in_disk_full(stocked, source, root, monkeypatch):
    monkeypatch.setattr("worker.pruner.ROOM_WAIT_S", 0.0)
    source.add(3, data=model_bytes(3, 5000))
    monkeypatch.setattr(prune, "SPARE_BYTES", 0)
    worker = stocked()
    worker._pruner._free_bytes = lambda _: 2000
    with pytest.raises(WorkerError, match="DISK_FULL"):
        worker.prepare(source.list(3), {})


# --- other workers, other threads -----------------------------------------------------------------------------------


def test_a_model_that_another_worker_deletes_meanwhile_is_fetched_again(stocked, source, root):
    source.add(3)
    worker = stocked()
    deleting = [root / "loras/m2.safetensors"]
    source.before_fetch = lambda downloads: deleting and deleting.pop().unlink()
    result = worker.prepare(source.list(2, 3), {})
    assert named(result.downloaded) == ["loras/m2.safetensors", "loras/m3.safetensors"]
    assert (root / "loras/m2.safetensors").read_bytes() == model_bytes(2)


def test_a_worker_that_keeps_deleting_is_reported(stocked, source, root):
    worker = stocked()
    same = worker.folders.same
    worker.folders.same = lambda entry: same(entry) and (root / str(entry.place)).unlink() is None and same(entry)
    with pytest.raises(WorkerError, match="keep changing"):
        worker.prepare(source.list(2), {})


def test_a_file_that_another_worker_pruned_first_is_no_error(stocked, source, root):
    worker = stocked()
    source.add(3)
    source.before_fetch = lambda downloads: (root / "loras/m1.safetensors").unlink()
    assert named(worker.prepare(source.list(3), {}).pruned) == ["loras/m2.safetensors"]


def test_two_jobs_of_one_worker_take_turns_and_fetch_once(manager, source):
    source.add(1)
    worker = manager()
    inside, go_on = threading.Event(), threading.Event()

    def slow(downloads):
        inside.set()
        assert go_on.wait(10)

    source.before_fetch = slow
    results = []
    threads = [threading.Thread(target=lambda: results.append(worker.prepare(source.list(1), {}))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    go_on.set()
    for thread in threads:
        thread.join()
    assert source.fetched == ["m1.safetensors"]
    assert sorted(len(result.ready) for result in results) == [0, 1]


def test_a_job_waiting_for_its_turn_can_be_cancelled_and_runs_into_its_deadline(manager, source):
    worker = manager()
    with worker._lock:
        stop = Stop()
        stop.set()
        with pytest.raises(Stopped):
            worker.prepare(source.list(1), {}, stop=stop)
        with pytest.raises(WorkerError, match="TIMEOUT"):
            worker.prepare(source.list(1), {}, stop=Stop(deadline=0.0))


# --- the rest -------------------------------------------------------------------------------------------------------


def test_no_token_in_manifest_log_report_or_error(manager, source, root, caplog):
    caplog.set_level(logging.DEBUG)
    source.add(1)
    source.add(2)
    worker = manager()
    text = f"{source.line(1)}?token={TOKEN}\n{source.line(2)}"
    said = [repr(worker.prepare(text, {})), repr(worker.prepare(source.list(1), {})), repr(worker.inspect())]
    for bad in (f"{source.line(99)}?token={TOKEN}", f"lora https://evil.example/x?token={TOKEN}"):
        with pytest.raises(WorkerError) as caught:
            worker.prepare(bad, {})
        said.append(json.dumps(caught.value.answer()))
    manifest = (root / MANIFEST_PATH).read_text()
    assert "civitai:1:10" in manifest
    assert "https://cdn.example/1" in manifest
    assert TOKEN not in "".join([*said, caplog.text, manifest])


def test_uses_are_written_down_but_not_for_every_job(manager, source, root, monkeypatch):
    source.add(1)
    worker = manager()
    worker.prepare(source.list(1), {})
    before = (root / MANIFEST_PATH).stat().st_mtime_ns
    worker.prepare(source.list(1), {})
    assert (root / MANIFEST_PATH).stat().st_mtime_ns == before
    monkeypatch.setattr("worker.pruner.USES_EVERY_S", -1.0)
    worker.prepare(source.list(1), {})
    assert (root / MANIFEST_PATH).stat().st_mtime_ns != before


def test_inspect_says_what_is_there(manager, source, root):
    data = source.add(1)
    put(root, "vae/baked.safetensors", b"baked")
    worker = manager()
    worker.prepare(source.list(1), {})
    facts = worker.inspect()
    assert facts["models"]["vae"] == [{"name": "baked.safetensors", "folder": "vae", "bytes": 5, "baked": True}]
    (mine,) = facts["models"]["loras"]
    assert (mine["identity"], mine["bytes"], mine["baked"]) == ("civitai:1:10", len(data), False)
    assert facts["disk"]["total_bytes"] >= facts["disk"]["free_bytes"] > 0
    assert facts["prune"] == "on"
    assert str(root) not in json.dumps(facts)


def test_inspect_before_the_models_folder_exists(manager):
    assert manager().inspect()["models"] == {}


def test_models_of_the_prompt_are_read_ahead_once(manager, source, root, monkeypatch):
    started = []
    monkeypatch.setattr("model_manager.ReadAhead", started.append)
    put(root, "loras/a.safetensors", b"1234")
    put(root, "loras/b.safetensors", b"1234")
    source.add(1)
    manager().prepare(source.list(1), lora("A.safetensors"), read_ahead=True)
    assert started == [[(root / "loras/a.safetensors", 4)]]


def test_random_jobs_never_lose_what_is_precious_and_always_have_what_they_list(manager, source, root):
    """Many jobs in random order, with restarts and lost manifests: the invariant of the whole module."""
    rng = random.Random(11)
    for version in range(1, 9):
        source.add(version, rng.choice(["loras", "vae"]), rng.choice(["x.safetensors", f"m{version}.safetensors"]))
    precious = {"loras/x.safetensors": b"baked", "vae/sub/y.safetensors": b"baked too", "loras/z.ckpt": b"pickle"}
    for name, data in precious.items():
        put(root, name, data)
    worker = manager()
    for _ in range(120):
        event = rng.random()
        if event < 0.1:
            worker = manager()
        elif event < 0.15:
            (root / MANIFEST_PATH).unlink(missing_ok=True)
        elif event < 0.25:
            mine = [name for name in tree(root) if name not in precious]
            if mine:
                (root / rng.choice(mine)).unlink()
        versions = rng.sample(range(1, 9), rng.randint(0, 4))
        source.fail_at = rng.choice([None, None, None, 0, 1])
        before = tree(root)
        try:
            result = worker.prepare(source.list(*versions), {}, prune=rng.choice([None, True, False]))
        except WorkerError:
            assert before.items() <= tree(root).items()
            continue
        after = tree(root)
        assert precious.items() <= after.items()
        have = {
            each["identity"]: after[f"{each['folder']}/{each['name']}"] for each in result.ready + result.downloaded
        }
        if versions:
            assert have == {f"civitai:{v}:{v * 10}": source.models[v][3] for v in versions}
