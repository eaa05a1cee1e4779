"""Models that came with the image are never pruned; a worker's downloads never count as such."""

import pytest

from tests.support.model_bench import named, put, tree
from worker.models.manifest import MANIFEST_PATH


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


def test_models_that_a_worker_downloaded_while_the_image_was_built_are_baked(manager, source, root, monkeypatch):
    """An image may be filled with ``ensure``: its manifest then lists them as downloaded, but on another host."""
    source.add(1)
    source.add(2)
    monkeypatch.setattr("worker.models.plan.THIS_HOST", "buildkitsandbox")
    manager().prepare(source.list(1), {})
    monkeypatch.undo()
    assert manager().prepare(source.list(2), {}).pruned == []
    assert named(manager().prepare(source.list(1), {}).ready) == ["loras/m1.safetensors"]
    assert (root / "loras/m1.safetensors").exists()


def test_what_a_worker_downloaded_is_not_baked_after_a_restart(manager, source, root):
    source.add(1)
    source.add(2)
    manager().prepare(source.list(1), {})
    assert named(manager().prepare(source.list(2), {}).pruned) == ["loras/m1.safetensors"]


def test_what_a_killed_worker_downloaded_is_not_baked_after_a_restart(manager, source, root):
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
