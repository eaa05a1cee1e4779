"""Listed models are fetched when they are missing, once, and under which name they lie."""

from hashlib import sha256

import pytest

from tests.support.model_bench import lora, model_bytes, named, put, tree


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


def test_models_of_the_prompt_are_read_ahead_once(manager, source, root, monkeypatch):
    started = []
    monkeypatch.setattr("model_manager.ReadAhead", started.append)
    put(root, "loras/a.safetensors", b"1234")
    put(root, "loras/b.safetensors", b"1234")
    source.add(1)
    manager().prepare(source.list(1), lora("A.safetensors"), read_ahead=True)
    assert started == [[(root / "loras/a.safetensors", 4)]]
