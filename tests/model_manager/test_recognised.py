"""Files that were there before, or whose manifest is lost: which are taken for a listed model, and which not."""

from tests.support.model_bench import named, put
from worker.models.manifest import MANIFEST_PATH


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


def test_a_file_with_the_right_name_and_size_but_other_bytes_is_not_recognised(manager, source, root):
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


def test_one_file_is_never_recognised_as_two_models(manager, source, root):
    data = source.add(1, name="same.safetensors", sha256=None)
    source.add(2, name="same.safetensors", sha256=None)
    put(root, "loras/same.safetensors", data)
    result = manager().prepare(source.list(1, 2), {})
    assert (named(result.ready), named(result.downloaded)) == (
        ["loras/same.safetensors"],
        ["loras/same.20.safetensors"],
    )


def test_a_file_in_a_subfolder_is_recognised_where_it_is(manager, source, root):
    put(root, "loras/xl/m1.safetensors", source.add(1))
    result = manager().prepare(source.list(1), {})
    assert named(result.ready) == ["loras/xl/m1.safetensors"]
    assert source.fetched == []


def test_a_symlinked_model_is_recognised_and_survives(manager, source, root, tmp_path):
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
