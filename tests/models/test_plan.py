"""The rules of what to fetch and under which name: pure, so each is one plain test."""

from dataclasses import replace

import pytest

from tests.support.inventories import disk, entry, inventory, line, wanted
from worker.models import plan
from worker.models.inventory import Inventory
from worker.models.locations import Location
from worker.models.manifest import Entry
from worker.sites.file_names import MAX_NAME_BYTES
from worker.sites.types import ModelFile


def locations(wants, stock=None, deleted_names=None):
    return [str(location) for location in plan.choose_locations(wants, stock or Inventory(), deleted_names or {})]


def test_a_new_file_takes_its_canonical_name_directly_in_its_folder():
    assert locations([wanted()]) == ["loras/a.safetensors"]


def test_two_files_of_one_name_in_one_run():
    wants = [wanted("civitai:1:10", "flux.safetensors"), wanted("civitai:1:11", "flux.safetensors")]
    assert locations(wants) == ["loras/flux.safetensors", "loras/flux.11.safetensors"]


def test_the_same_name_in_two_folders_is_no_collision():
    assert locations([wanted(), wanted(folder="vae")]) == ["loras/a.safetensors", "vae/a.safetensors"]


@pytest.mark.parametrize("there", ["loras/a.safetensors", "loras/A.SAFETENSORS"])
def test_new_bytes_never_take_the_path_of_other_bytes(there):
    assert locations([wanted()], inventory(disk(there))) == ["loras/a.2.safetensors"]


def test_new_bytes_never_take_a_name_that_a_folder_or_a_broken_link_holds():
    assert locations([wanted()], inventory(occupied=[("loras", "a.safetensors")])) == ["loras/a.2.safetensors"]


def test_a_name_in_an_older_folder_that_comfyui_lists_together_is_taken_too():
    stock = inventory(disk("unet/a.safetensors"))
    assert locations([wanted(folder="diffusion_models")], stock) == ["diffusion_models/a.2.safetensors"]


def test_new_bytes_never_take_a_path_that_other_bytes_had_while_comfyui_lived():
    deleted_names = {Location("loras", "a.safetensors"): "civitai:9:9"}
    assert locations([wanted()], deleted_names=deleted_names) == ["loras/a.2.safetensors"]
    assert locations([wanted("civitai:9:9")], deleted_names=deleted_names) == ["loras/a.safetensors"]


def test_new_bytes_never_take_a_path_that_another_worker_is_about_to_fill_with_other_bytes():
    begun = Entry(Location("loras", "a.safetensors"), "civitai:9:9", "a.safetensors", 0, 0, origin="pending")
    assert locations([wanted()], inventory(pending=[begun])) == ["loras/a.2.safetensors"]
    assert locations([wanted("civitai:9:9")], inventory(pending=[begun])) == ["loras/a.safetensors"]


def test_even_a_taken_collision_name_is_not_overwritten():
    stock = inventory(disk("loras/a.safetensors"), disk("loras/a.2.safetensors"))
    assert locations([wanted()], stock) == ["loras/a.2-2.safetensors"]


def test_collision_names_of_other_sites_and_of_long_names():
    name = plan.collision_name("m.gguf", "hf:org/repo@main:m.gguf")
    assert name.startswith("m.") and name.endswith(".gguf") and len(name) == len("m.12345678.gguf")
    long = plan.collision_name("日" * 76 + ".safetensors", "civitai:1:234567")
    assert long.endswith("日.234567.safetensors")
    assert len(long.encode()) <= MAX_NAME_BYTES


def test_the_collision_name_of_a_file_known_only_by_a_long_link_fits_on_the_disk():
    name = plan.collision_name("m.safetensors", f"civitai:1:{'x' * 500}")
    assert len(name.encode()) <= 255
    assert name != plan.collision_name("m.safetensors", f"civitai:1:{'y' * 500}")


def test_known_lines_need_no_look_up_and_equal_files_count_once():
    file = disk("loras/a.safetensors")
    stock = inventory(file, entries=[entry(file, keys=("k1", "k2"))])
    known, unknown = plan.split_known([line("k1"), line("k2"), line("k3"), line("k3", 4)], stock)
    assert [each.location for each in known] == [file.location]
    assert [each.number for each in unknown] == [1]


def test_lines_that_mean_one_file_are_merged():
    files = [
        ModelFile("civitai:1:2", "loras", "a.safetensors", "u", line("k1"), aliases=("x.safetensors",)),
        ModelFile("civitai:1:2", "loras", "mine.safetensors", "u", line("k2")),
        ModelFile("civitai:1:2", "vae", "a.safetensors", "u", line("k3")),
    ]
    first, second = plan.unique_wants(files)
    assert (first.file.filename, first.keys) == ("a.safetensors", ("k1", "k2"))
    assert first.aliases == ("x.safetensors", "mine.safetensors")
    assert second.file.folder == "vae"


def candidates(want, *files, entries=()):
    return [str(file.location) for file in plan.candidates(want, inventory(*files, entries=entries))]


def test_a_file_is_recognised_by_name_and_size_directly_in_its_folder():
    assert candidates(wanted(size=5), disk("loras/a.safetensors", 5)) == ["loras/a.safetensors"]
    assert candidates(wanted(size=6), disk("loras/a.safetensors", 5)) == []
    assert candidates(wanted(size=5), disk("vae/a.safetensors", 5)) == []
    assert candidates(wanted(size=5), disk("loras/b.safetensors", 5)) == []


def test_in_a_subfolder_only_a_published_hash_lets_a_file_be_recognised():
    assert candidates(wanted(size=5), disk("loras/xl/a.safetensors", 5)) == []
    assert candidates(wanted(size=5, sha256="ab"), disk("loras/xl/a.safetensors", 5)) == ["loras/xl/a.safetensors"]


def test_a_file_directly_in_its_folder_is_tried_before_one_in_a_subfolder():
    found = candidates(wanted(size=5, sha256="ab"), disk("loras/xl/a.safetensors", 5), disk("loras/a.safetensors", 5))
    assert found == ["loras/a.safetensors", "loras/xl/a.safetensors"]


def test_a_name_alone_proves_nothing():
    assert candidates(wanted(), disk("loras/a.safetensors", 5)) == []


def test_at_a_path_where_this_very_model_was_begun_a_file_needs_no_size_or_hash():
    file = disk("loras/a.safetensors", 5)

    def begun(identity):
        note = Entry(file.location, identity, "a.safetensors", 0, 0, origin="pending")
        return plan.candidates(wanted(), inventory(file, pending=[note]))

    assert begun("civitai:1:2") == [file]
    assert begun("civitai:9:9") == []


def test_a_file_without_a_header_to_check_needs_a_published_hash():
    want = wanted(filename="a.pth", folder="upscale_models", size=5)
    assert candidates(want, disk("upscale_models/a.pth", 5)) == []
    hashed = replace(want, file=replace(want.file, sha256="ab"))
    assert candidates(hashed, disk("upscale_models/a.pth", 5)) == ["upscale_models/a.pth"]


def test_a_file_that_is_known_to_be_something_else_is_not_recognised():
    file = disk("loras/a.safetensors", 5)
    assert candidates(wanted(size=5), file, entries=[entry(file, "civitai:9:9")]) == []


def test_the_collision_name_is_tried_before_the_canonical_one_and_older_folders_count():
    found = candidates(wanted(size=5), disk("loras/a.safetensors", 5), disk("loras/a.2.safetensors", 5))
    assert found == ["loras/a.2.safetensors", "loras/a.safetensors"]
    want = wanted(folder="diffusion_models", size=5)
    assert candidates(want, disk("unet/a.safetensors", 5)) == ["unet/a.safetensors"]
