"""The rules of what to fetch, under which name, and what may be deleted: pure, so each is one plain test."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from worker.models import plan
from worker.models import prune_rules as prune
from worker.models.inventory import Inventory
from worker.models.locations import DiskFile, Location
from worker.models.manifest import Entry
from worker.models.plan import Want
from worker.models.prompt_names import Mentions, model_names
from worker.models.prune_rules import PrunePlan, PruneRules
from worker.sites.file_names import MAX_NAME_BYTES
from worker.sites.types import ModelFile, RepoLine

NOW_NS = 2_000_000_000_000_000_000
OLD_NS = NOW_NS - 3600 * 10**9
GB = 10**9
RULES = PruneRules(wanted=True, list_empty=False, shared=False, no_other_job=True, started_ns=NOW_NS)


def disk(text, size=GB, mtime_ns=OLD_NS, ctime_ns=OLD_NS, linked=False):
    return DiskFile(Location.parse(text), size, mtime_ns, ctime_ns, hash(text), linked)


def entry(file, identity="civitai:1:2", **more):
    more.setdefault("canonical", file.location.name)
    return Entry(file.location, identity, size=file.size, mtime_ns=file.mtime_ns, **more)


def inventory(*files, entries=(), pending=(), occupied=()):
    names = {(file.location.folder, file.location.name.casefold()) for file in files if "/" not in file.location.name}
    return Inventory(
        {file.location: file for file in files},
        {each.location: each for each in entries},
        {each.location: each for each in pending},
        frozenset(names | set(occupied)),
    )


def line(key, number=1):
    return RepoLine(number, key, key, "civitai", "https://civitai.com/x", None, None)


def wanted(identity="civitai:1:2", filename="a.safetensors", folder="loras", key="k", **more):
    file = ModelFile(identity, folder, filename, "https://civitai.com/x", line(key), **more)
    return Want(file, (key,), ())


def pruned(stock, listed=(), prompt=None, **rules):
    chosen = prune.plan_prune(
        stock, {Location.parse(each) for each in listed}, model_names(prompt or {}), replace(RULES, **rules)
    )
    return [str(file.location) for file in chosen.to_delete]


def test_what_is_neither_listed_nor_kept_is_pruned_largest_first():
    stock = inventory(disk("loras/a.safetensors", 1), disk("vae/b.SafeTensors", 3), disk("loras/sub/c.safetensors", 2))
    assert pruned(stock) == ["vae/b.SafeTensors", "loras/sub/c.safetensors", "loras/a.safetensors"]


def test_listed_models_are_kept():
    assert pruned(inventory(disk("loras/a.safetensors"), disk("loras/b.safetensors")), ["loras/a.safetensors"]) == [
        "loras/b.safetensors"
    ]


@pytest.mark.parametrize("named", ["a.safetensors", "XL\\A (1).safetensors", "x/y/a.SAFETENSORS"])
def test_models_that_the_prompt_names_are_kept_though_not_listed(named):
    prompt = {"1": {"class_type": "LoraLoader", "inputs": {"lora_name": named}}}
    assert pruned(inventory(disk("loras/deep/a.safetensors")), prompt=prompt) == []


def test_embeddings_that_a_text_names_are_kept():
    prompt = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "(embedding:easy:1.1)"}}}
    assert pruned(inventory(disk("embeddings/easy.safetensors")), prompt=prompt) == []


def test_a_model_that_the_prompt_names_by_an_alias_is_kept():
    file = disk("loras/canonical.safetensors")
    prompt = {"1": {"class_type": "LoraLoader", "inputs": {"lora_name": "stored.safetensors"}}}
    assert pruned(inventory(file, entries=[entry(file, aliases=("stored.safetensors",))]), prompt=prompt) == []
    renamed = entry(file, canonical="stored.safetensors")
    assert pruned(inventory(file, entries=[renamed]), prompt=prompt) == []


@pytest.mark.parametrize("glob", ["base*", "BASE_*.safetensors", "checkpoints/*", "checkpoints/sub/*", "sub/base_?.*"])
def test_keep_models_globs_are_kept(glob):
    assert pruned(inventory(disk("checkpoints/sub/Base_1.safetensors")), keep_globs=("nothing", glob)) == []


def test_a_glob_that_does_not_match_keeps_nothing():
    assert pruned(inventory(disk("loras/a.safetensors")), keep_globs=("b*",)) == ["loras/a.safetensors"]


def test_models_baked_into_the_image_are_kept():
    file = disk("checkpoints/baked.safetensors")
    assert pruned(inventory(file), preinstalled={(file.location, file.size, file.mtime_ns)}) == []


def test_other_bytes_under_a_baked_name_are_not_baked():
    file = disk("checkpoints/baked.safetensors")
    assert pruned(inventory(file), preinstalled={(file.location, file.size + 1, file.mtime_ns)}) == [str(file.location)]


@pytest.mark.parametrize("when", [{"mtime_ns": NOW_NS}, {"ctime_ns": NOW_NS + 5}])
def test_files_younger_than_the_job_are_kept(when):
    assert pruned(inventory(disk("loras/new.safetensors", **when))) == []


def test_symlinks_and_what_lies_behind_them_are_kept():
    assert pruned(inventory(disk("loras/link.safetensors", linked=True))) == []


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.gguf", "a.sft", "a.safetensors.part", "a.bin"])
def test_only_safetensors_are_ever_pruned(name):
    assert pruned(inventory(disk(f"loras/{name}"))) == []


@pytest.mark.parametrize("folder", ["unet", "clip", "style_models", "custom_nodes", "..", ""])
def test_only_managed_folders_are_ever_pruned(folder):
    assert pruned(inventory(disk(f"{folder}/a.safetensors"))) == []


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"list_empty": True}, "repo_list is empty"),
        ({"wanted": False}, "prune is off"),
        ({"shared": True}, "shared volume"),
        ({"no_other_job": False}, "another job"),
    ],
)
def test_nothing_is_pruned_when_a_gate_is_shut(rule, reason):
    chosen = prune.plan_prune(inventory(disk("loras/a.safetensors")), (), Mentions(), replace(RULES, **rule))
    assert chosen.to_delete == chosen.cached == ()
    assert reason in (chosen.blocked_by or "")


def test_a_plan_that_would_delete_very_many_files_deletes_none():
    many = [disk(f"loras/{n}.safetensors") for n in range(prune.PRUNE_MAX_FILES + 1)]
    chosen = prune.plan_prune(inventory(*many), (), Mentions(), RULES)
    assert chosen.to_delete == ()
    assert chosen.blocked_by
    assert len(pruned(inventory(*many[1:]))) == prune.PRUNE_MAX_FILES


def test_a_dry_run_says_what_would_go_and_withholds_it():
    chosen = prune.plan_prune(inventory(disk("loras/a.safetensors")), (), Mentions(), replace(RULES, dry_run=True))
    assert len(chosen.to_delete) == 1
    assert chosen.blocked_by == "PRUNE_DRY_RUN is on"
    assert prune.room_first(chosen, needed=GB, free=0, shared=False) is None


def test_on_a_shared_volume_what_another_worker_used_lately_is_kept():
    used, unused = disk("loras/used.safetensors"), disk("loras/unused.safetensors")
    stock = inventory(used, unused, entries=[entry(used, last_used=NOW_NS / 1e9 - 30)])
    assert pruned(stock, used_since=NOW_NS / 1e9 - 600) == ["loras/unused.safetensors"]
    assert sorted(pruned(stock)) == ["loras/unused.safetensors", "loras/used.safetensors"]


def test_keep_gb_keeps_the_most_recently_used():
    files = [disk(f"loras/{n}.safetensors", 4 * GB) for n in range(4)]
    uses = [
        entry(file, f"civitai:1:{n}", last_used=1e9 + use)
        for n, (file, use) in enumerate(zip(files, (3, 9, 1, 7), strict=True))
    ]
    assert pruned(inventory(*files, entries=uses), keep_bytes=9 * GB) == ["loras/0.safetensors", "loras/2.safetensors"]


def test_keep_gb_counts_uses_of_this_process_and_falls_back_to_the_files_time():
    old, new = disk("loras/old.safetensors"), disk("loras/new.safetensors", ctime_ns=OLD_NS + 10**9)
    assert pruned(inventory(old, new), keep_bytes=GB) == ["loras/old.safetensors"]
    assert pruned(inventory(old, new), keep_bytes=GB, last_used={old.location: 2e9}) == ["loras/new.safetensors"]


def test_keep_gb_lets_a_smaller_older_file_use_the_room_that_a_large_one_cannot():
    large, small = disk("loras/large.safetensors", 5 * GB, ctime_ns=OLD_NS + 9), disk("loras/small.safetensors", GB)
    assert pruned(inventory(large, small), keep_bytes=2 * GB) == ["loras/large.safetensors"]


def test_no_random_set_of_rules_ever_dooms_something_precious():
    """Whatever the disk, the job and the settings are: a doomed file is never one that any rule protects."""
    rng = random.Random(7)
    folders = ["loras", "checkpoints", "unet", "style_models", "embeddings"]
    names = ["a.safetensors", "B.SAFETENSORS", "sub/c.safetensors", "d.ckpt", "e (1).safetensors", "f.safetensors"]
    for _ in range(500):
        files = [
            disk(f"{folder}/{name}", rng.randint(1, 9) * GB, rng.choice([OLD_NS, NOW_NS]), OLD_NS, rng.random() < 0.2)
            for folder in folders
            for name in names
            if rng.random() < 0.5
        ]
        listed = {file.location for file in files if rng.random() < 0.2}
        named = rng.choice(names)
        mentions = model_names({"1": {"inputs": {"x": named}}})
        preinstalled = {(file.location, file.size, file.mtime_ns) for file in files if rng.random() < 0.2}
        gates = {gate: rng.random() < 0.1 for gate in ("list_empty", "shared", "dry_run")}
        rules = replace(
            RULES,
            preinstalled=preinstalled,
            keep_bytes=rng.choice([0, 7 * GB]),
            keep_globs=("f.*",),
            no_other_job=rng.random() < 0.9,
            **gates,
        )
        chosen = prune.plan_prune(inventory(*files), listed, mentions, rules)
        if rules.why_not():
            assert not chosen.to_delete + chosen.cached
        for file in chosen.to_delete + chosen.cached:
            assert file.location.where in ("loras", "checkpoints", "embeddings")
            assert file.location.name.lower().endswith(".safetensors")
            assert file.location not in listed
            assert not file.linked
            assert not mentions.cover(file.location.name)
            assert (file.location, file.size, file.mtime_ns) not in preinstalled
            assert file.mtime_ns < NOW_NS
            assert not file.location.basename.startswith("f.")
        assert prune.bytes_of(chosen.cached) <= rules.keep_bytes
        assert len(chosen.to_delete) + len(chosen.cached) + len(listed) <= len(files)


ROOM = PrunePlan(
    to_delete=(disk("loras/l.safetensors", 5 * GB), disk("loras/m.safetensors", 3 * GB)),
    cached=(disk("loras/c.safetensors", 4 * GB),),
)


def room(needed, free, chosen=ROOM, shared=False):
    first = prune.room_first(chosen, needed, free, shared=shared)
    return None if first is None else [file.location.basename for file in first]


def test_no_room_is_made_when_the_new_models_fit():
    assert room(GB, 2 * GB) == []
    assert room(0, 0) == []


def test_room_is_made_largest_first_and_only_as_much_as_needed():
    assert room(6 * GB, 2 * GB) == ["l.safetensors"]
    assert room(8 * GB, 2 * GB) == ["l.safetensors", "m.safetensors"]


def test_what_keep_gb_keeps_gives_way_only_after_the_rest():
    assert room(13 * GB, 2 * GB) == ["l.safetensors", "m.safetensors", "c.safetensors"]


def test_no_room_is_made_when_it_would_not_be_enough():
    assert room(15 * GB, 2 * GB) is None


def test_no_room_is_made_on_a_shared_volume_or_when_pruning_is_withheld():
    assert room(3 * GB, 2 * GB, shared=True) is None
    assert room(3 * GB, 2 * GB, PrunePlan(blocked_by="prune is off")) is None
    assert room(3 * GB, 2 * GB, replace(ROOM, blocked_by="PRUNE_DRY_RUN is on")) is None


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


def test_lines_that_mean_one_file_are_gathered():
    files = [
        ModelFile("civitai:1:2", "loras", "a.safetensors", "u", line("k1"), aliases=("x.safetensors",)),
        ModelFile("civitai:1:2", "loras", "mine.safetensors", "u", line("k2")),
        ModelFile("civitai:1:2", "vae", "a.safetensors", "u", line("k3")),
    ]
    first, second = plan.gather(files)
    assert (first.file.filename, first.keys) == ("a.safetensors", ("k1", "k2"))
    assert first.aliases == ("x.safetensors", "mine.safetensors")
    assert second.file.folder == "vae"


def adoptable(want, *files, entries=()):
    return [str(file.location) for file in plan.candidates(want, inventory(*files, entries=entries))]


def test_a_file_is_adopted_by_name_and_size_directly_in_its_folder():
    assert adoptable(wanted(size=5), disk("loras/a.safetensors", 5)) == ["loras/a.safetensors"]
    assert adoptable(wanted(size=6), disk("loras/a.safetensors", 5)) == []
    assert adoptable(wanted(size=5), disk("vae/a.safetensors", 5)) == []
    assert adoptable(wanted(size=5), disk("loras/b.safetensors", 5)) == []


def test_in_a_subfolder_only_a_published_hash_lets_a_file_be_adopted():
    assert adoptable(wanted(size=5), disk("loras/xl/a.safetensors", 5)) == []
    assert adoptable(wanted(size=5, sha256="ab"), disk("loras/xl/a.safetensors", 5)) == ["loras/xl/a.safetensors"]


def test_a_file_directly_in_its_folder_is_tried_before_one_in_a_subfolder():
    found = adoptable(wanted(size=5, sha256="ab"), disk("loras/xl/a.safetensors", 5), disk("loras/a.safetensors", 5))
    assert found == ["loras/a.safetensors", "loras/xl/a.safetensors"]


def test_a_name_alone_proves_nothing():
    assert adoptable(wanted(), disk("loras/a.safetensors", 5)) == []


def test_at_a_path_where_this_very_model_was_begun_a_file_needs_no_size_or_hash():
    file = disk("loras/a.safetensors", 5)

    def begun(identity):
        note = Entry(file.location, identity, "a.safetensors", 0, 0, origin="pending")
        return plan.candidates(wanted(), inventory(file, pending=[note]))

    assert begun("civitai:1:2") == [file]
    assert begun("civitai:9:9") == []


def test_a_file_without_a_header_to_check_needs_a_published_hash():
    want = wanted(filename="a.pth", folder="upscale_models", size=5)
    assert adoptable(want, disk("upscale_models/a.pth", 5)) == []
    hashed = replace(want, file=replace(want.file, sha256="ab"))
    assert adoptable(hashed, disk("upscale_models/a.pth", 5)) == ["upscale_models/a.pth"]


def test_a_file_that_is_known_to_be_something_else_is_not_adopted():
    file = disk("loras/a.safetensors", 5)
    assert adoptable(wanted(size=5), file, entries=[entry(file, "civitai:9:9")]) == []


def test_the_collision_name_is_tried_before_the_canonical_one_and_older_folders_count():
    found = adoptable(wanted(size=5), disk("loras/a.safetensors", 5), disk("loras/a.2.safetensors", 5))
    assert found == ["loras/a.2.safetensors", "loras/a.safetensors"]
    want = wanted(folder="diffusion_models", size=5)
    assert adoptable(want, disk("unet/a.safetensors", 5)) == ["unet/a.safetensors"]


def test_is_within():
    assert prune.is_within(Path("/v/models"), [Path("/x"), Path("/v")])
    assert prune.is_within(Path("/v"), [Path("/v")])
    assert not prune.is_within(Path("/volume"), [Path("/v")])
