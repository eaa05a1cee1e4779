"""Which models go once the listed ones are there, and how that is said and done."""

import logging

from tests.support.model_bench import lora, model_bytes, named, put, tree


def test_after_the_listed_models_are_there_the_others_go(manager, source, root):
    for version in (1, 2, 3):
        source.add(version)
    worker = manager()
    worker.prepare(source.list(1, 2), {})
    result = worker.prepare(source.list(2, 3), {})
    assert list(tree(root)) == ["loras/m2.safetensors", "loras/m3.safetensors"]
    assert named(result.pruned) == ["loras/m1.safetensors"]
    assert (named(result.ready), named(result.downloaded)) == (["loras/m2.safetensors"], ["loras/m3.safetensors"])


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


def test_another_running_job_prevents_pruning(stocked, source, root):
    worker = stocked()
    worker.prepare(source.list(2), {}, no_other_job=lambda: False)
    assert (root / "loras/m1.safetensors").exists()


def test_another_job_that_began_during_the_download_prevents_pruning(stocked, source, root):
    source.add(3)
    worker = stocked()
    no_other_job = [True]
    source.before_fetch = lambda downloads: no_other_job.clear()
    worker.prepare(source.list(3), {}, no_other_job=lambda: bool(no_other_job))
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
    assert "prune loras/m1.safetensors (4.1 kB)" in seen[0]
    assert "pruned loras/m1.safetensors" not in seen[0]


def test_comfyui_closes_its_files_once_before_the_first_file_goes_and_not_without_need(stocked, source, root):
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

    monkeypatch.setattr("worker.models.pruner.delete", refused)
    result = stocked().prepare(source.list(2), {})
    assert result.warnings == ["loras/m1.safetensors could not be pruned: Permission denied"]
