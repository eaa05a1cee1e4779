"""What holds over everything: no token leaks, `inspect` is true, and random jobs never lose what is precious."""

import json
import logging
import random

import pytest

from tests.support.model_bench import TOKEN, put, tree
from worker.errors import WorkerError
from worker.models.manifest import MANIFEST_PATH


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
    monkeypatch.setattr("worker.models.pruner.USES_EVERY_S", -1.0)
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
