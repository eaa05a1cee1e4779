"""What may be deleted and what stays, rule by rule, and the one function that deletes."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.inventories import GB, NOW_NS, OLD_NS, disk, entry, inventory
from tests.support.model_bench import put
from worker.errors import Code
from worker.models import prune_rules as prune
from worker.models.inventory import ModelFolders
from worker.models.locations import Location
from worker.models.prompt_names import Mentions, find_mentions
from worker.models.prune_rules import Outcome, PrunePlan, PruneRules, delete

RULES = PruneRules(enabled=True, list_empty=False, shared=False, no_other_job=True, started_ns=NOW_NS)


def pruned(stock, listed=(), prompt=None, **rules):
    chosen = prune.plan_prune(
        stock, {Location.parse(each) for each in listed}, find_mentions(prompt or {}), replace(RULES, **rules)
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


def test_files_that_another_worker_claims_are_kept():
    used, unused = disk("loras/used.safetensors"), disk("loras/unused.safetensors")
    assert pruned(inventory(used, unused), in_use={used.location}) == ["loras/unused.safetensors"]


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
        ({"enabled": False}, "prune is off"),
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


def test_the_most_files_that_one_job_deletes_are_200():
    many = [disk(f"loras/{n}.safetensors") for n in range(201)]
    kept = disk("loras/a.ckpt")
    chosen = prune.plan_prune(inventory(kept, *many), (), Mentions(), RULES)
    assert chosen.blocked_by == "201 files would be deleted, more than 200"
    assert list(chosen.kept) == [kept.location]


def test_files_of_one_size_go_in_the_order_of_their_names():
    stock = inventory(*(disk(f"loras/{name}.safetensors") for name in "cab"))
    assert pruned(stock) == [f"loras/{name}.safetensors" for name in "abc"]


def test_a_plan_that_nothing_blocks_has_no_reason():
    assert prune.plan_prune(inventory(disk("loras/a.safetensors")), (), Mentions(), RULES).blocked_by is None


def test_a_dry_run_says_what_would_go_and_blocks_it():
    chosen = prune.plan_prune(inventory(disk("loras/a.safetensors")), (), Mentions(), replace(RULES, dry_run=True))
    assert len(chosen.to_delete) == 1
    assert chosen.blocked_by == "PRUNE_DRY_RUN is on"
    assert prune.files_to_make_room(chosen, needed=GB, free=0, shared=False) is None


def test_on_a_shared_volume_what_another_worker_used_lately_is_kept():
    used, unused = disk("loras/used.safetensors"), disk("loras/unused.safetensors")
    stock = inventory(used, unused, entries=[entry(used, last_used=NOW_NS / 1e9 - 30)])
    assert pruned(stock, used_since=NOW_NS / 1e9 - 600) == ["loras/unused.safetensors"]
    assert sorted(pruned(stock)) == ["loras/unused.safetensors", "loras/used.safetensors"]


def test_a_use_at_the_very_limit_still_counts_as_lately():
    file = disk("loras/used.safetensors")
    stock = inventory(file, entries=[entry(file, last_used=1e9)])
    assert pruned(stock, used_since=1e9) == []
    assert pruned(stock, used_since=1e9 + 1) == ["loras/used.safetensors"]


@pytest.mark.parametrize(
    ("file", "rules", "reason"),
    [
        (disk("unet/a.safetensors"), {}, "not in a managed folder"),
        (disk("loras/a.safetensors", linked=True), {}, "behind a symlink"),
        (disk("loras/a.ckpt"), {}, "not .safetensors"),
        (disk("loras/named.safetensors"), {}, "named by the prompt"),
        (disk("loras/a.safetensors"), {"keep_globs": ("a*",)}, "KEEP_MODELS"),
        (disk("loras/a.safetensors"), {"preinstalled": {disk("loras/a.safetensors").fingerprint}}, "baked into"),
        (disk("loras/a.safetensors", ctime_ns=NOW_NS), {}, "younger than the job"),
        (disk("loras/a.safetensors"), {"in_use": {Location("loras", "a.safetensors")}}, "another worker uses it"),
        (disk("loras/a.safetensors"), {"used_since": 0.0}, "another worker may be using it"),
        (disk("loras/a.safetensors"), {"keep_bytes": GB}, "KEEP_GB"),
    ],
)
def test_the_plan_gives_the_reason_for_each_file_that_is_kept(file, rules, reason):
    mentions = find_mentions({"1": {"inputs": {"lora_name": "named.safetensors"}}})
    chosen = prune.plan_prune(inventory(file), (), mentions, replace(RULES, **rules))
    assert list(chosen.kept) == [file.location]
    assert chosen.kept[file.location].startswith(reason)
    assert chosen.to_delete == ()


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


@pytest.mark.parametrize("changed", ["mtime_ns", "ctime_ns"])
def test_keep_gb_takes_the_later_of_a_files_two_times(changed):
    old, new = disk("loras/old.safetensors"), disk("loras/new.safetensors", **{changed: OLD_NS + 10**9})
    assert pruned(inventory(old, new), keep_bytes=GB) == ["loras/old.safetensors"]


def test_what_keep_gb_keeps_is_in_the_plan_largest_first_to_make_room_with():
    small, large = disk("loras/small.safetensors", 1, ctime_ns=OLD_NS + 9), disk("loras/large.safetensors", 2)
    chosen = prune.plan_prune(inventory(small, large), (), Mentions(), replace(RULES, keep_bytes=3))
    assert chosen.cached == (large, small)


def test_keep_gb_lets_a_smaller_older_file_use_the_room_that_a_large_one_cannot():
    large, small = disk("loras/large.safetensors", 5 * GB, ctime_ns=OLD_NS + 9), disk("loras/small.safetensors", GB)
    assert pruned(inventory(large, small), keep_bytes=2 * GB) == ["loras/large.safetensors"]


def test_no_random_set_of_rules_ever_deletes_something_precious():
    """Whatever the disk, the job and the settings are: a file to delete is never one that any rule protects."""
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
        mentions = find_mentions({"1": {"inputs": {"x": named}}})
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
        if rules.blocked_by():
            assert not chosen.to_delete + chosen.cached
        for file in chosen.to_delete + chosen.cached:
            assert file.location.disk_folder in ("loras", "checkpoints", "embeddings")
            assert file.location.name.lower().endswith(".safetensors")
            assert file.location not in listed
            assert not file.linked
            assert not mentions.may_mean(file.location.name)
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
    first = prune.files_to_make_room(chosen, needed, free, shared=shared)
    return None if first is None else [file.location.basename for file in first]


def test_no_room_is_made_when_the_new_models_fit():
    assert room(GB, 2 * GB) == []
    assert room(0, 0) == []


def test_room_is_made_largest_first_and_only_as_much_as_needed():
    assert room(6 * GB, 2 * GB) == ["l.safetensors"]
    assert room(8 * GB, 2 * GB) == ["l.safetensors", "m.safetensors"]


def test_what_keep_gb_keeps_gives_way_only_after_the_rest():
    assert room(13 * GB, 2 * GB) == ["l.safetensors", "m.safetensors", "c.safetensors"]


def test_64_mib_stay_free_beside_the_new_models():
    spare = 64 << 20
    assert room(GB, GB + spare) == []
    assert room(GB, GB + spare - 1) == ["l.safetensors"]


def test_room_that_is_just_enough_is_enough():
    assert room(7 * GB, 2 * GB + prune.SPARE_BYTES) == ["l.safetensors"]
    assert room(14 * GB, 2 * GB + prune.SPARE_BYTES) == ["l.safetensors", "m.safetensors", "c.safetensors"]


def test_no_room_is_made_when_it_would_not_be_enough():
    assert room(15 * GB, 2 * GB) is None


def test_no_room_is_made_on_a_shared_volume_or_when_pruning_is_blocked():
    assert room(3 * GB, 2 * GB, shared=True) is None
    assert room(3 * GB, 2 * GB, PrunePlan(blocked_by="prune is off")) is None
    assert room(3 * GB, 2 * GB, replace(ROOM, blocked_by="PRUNE_DRY_RUN is on")) is None


def test_a_full_disk_is_told_with_what_is_needed_free_and_prunable():
    error = prune.disk_full(ROOM, 20 * GB, 3 * GB)
    assert error.code is Code.DISK_FULL
    assert error.details == {"needed_bytes": 20 * GB, "free_bytes": 3 * GB, "prunable_bytes": 12 * GB}
    assert error.message == (
        "the missing models need 20.00 GB but the disk has 3.00 GB free, "
        "and deleting 12.00 GB of unlisted models would not be enough"
    )


def test_a_full_disk_on_which_nothing_may_be_pruned_is_told_with_the_reason():
    error = prune.disk_full(replace(ROOM, blocked_by="prune is off"), 20 * GB, 3 * GB)
    assert error.details["prunable_bytes"] == 0
    assert error.message.endswith("3.00 GB free (nothing is pruned: prune is off)")


def test_a_full_disk_without_unlisted_models_is_told_without_them():
    error = prune.disk_full(PrunePlan(), 20 * GB, 3 * GB)
    assert error.message == "the missing models need 20.00 GB but the disk has 3.00 GB free"


def test_is_within():
    assert prune.is_within(Path("/v/models"), [Path("/x"), Path("/v")])
    assert prune.is_within(Path("/v"), [Path("/v")])
    assert not prune.is_within(Path("/volume"), [Path("/v")])


class TestDeletingOneFile:
    """``prune.delete`` takes away the planned file or nothing."""

    def planned(self, root, name="loras/sub/a.safetensors"):
        put(root, name)
        return ModelFolders(root).read().files[Location.parse(name)]

    def test_the_planned_file_goes(self, tmp_path):
        file = self.planned(tmp_path)
        assert delete(tmp_path, file) is Outcome.DELETED
        assert not (tmp_path / str(file.location)).exists()
        assert delete(tmp_path, file) is Outcome.GONE

    def test_a_file_replaced_since_the_plan_stays(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / str(file.location)
        other = put(tmp_path, "new", b"other")
        os.utime(other, ns=(file.mtime_ns, file.mtime_ns))
        other.replace(path)
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (file.size, file.mtime_ns)
        assert delete(tmp_path, file) is Outcome.CHANGED
        assert path.read_bytes() == b"other"

    @pytest.mark.parametrize("data", [b"model", b"longer than it was"])
    def test_a_file_changed_in_place_since_the_plan_stays(self, tmp_path, data):
        file = self.planned(tmp_path)
        path = tmp_path / str(file.location)
        path.write_bytes(data)
        assert delete(tmp_path, file) is Outcome.CHANGED
        assert path.exists()

    def test_a_file_that_grew_within_one_tick_of_the_clock_stays(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / str(file.location)
        path.write_bytes(b"longer than it was")
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
        assert delete(tmp_path, file) is Outcome.CHANGED

    def test_a_symlink_is_never_deleted_even_if_it_is_what_was_planned(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / "loras" / "link.safetensors"
        path.symlink_to("sub/a.safetensors")
        facts = path.lstat()
        link = file._replace(
            location=Location("loras", "link.safetensors"),
            size=facts.st_size,
            mtime_ns=facts.st_mtime_ns,
            inode=facts.st_ino,
        )
        assert delete(tmp_path, link) is Outcome.CHANGED
        assert path.is_symlink()

    def test_a_symlink_put_there_since_the_plan_stays_and_so_does_its_target(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / str(file.location)
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
        assert delete(tmp_path, file) is Outcome.CHANGED
        assert path.is_symlink()
        assert (tmp_path / "moved").exists()

    @pytest.mark.parametrize("folder", ["loras", "loras/sub"])
    def test_a_folder_turned_into_a_symlink_since_the_plan_is_not_followed(self, tmp_path, folder):
        file = self.planned(tmp_path)
        (tmp_path / folder).rename(tmp_path / "moved")
        (tmp_path / folder).symlink_to(tmp_path / "moved")
        assert delete(tmp_path, file) is Outcome.CHANGED
        assert (tmp_path / str(file.location)).exists()

    def test_a_path_that_climbs_out_is_refused(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / "precious.safetensors"
        (tmp_path / str(file.location)).rename(path)
        climbing = file._replace(location=Location("loras", "../precious.safetensors"))
        assert delete(tmp_path, climbing) is Outcome.CHANGED
        assert path.exists()

    @pytest.mark.parametrize("name", ["./a.safetensors", "sub/./a.safetensors", "sub//a.safetensors"])
    def test_a_path_with_parts_that_are_no_folder_names_is_refused(self, tmp_path, name):
        file = self.planned(tmp_path, "loras/sub/a.safetensors" if "sub" in name else "loras/a.safetensors")
        assert delete(tmp_path, file._replace(location=Location("loras", name))) is Outcome.CHANGED
        assert (tmp_path / str(file.location)).exists()

    def test_a_folder_that_may_not_be_opened_is_an_error(self, tmp_path, monkeypatch):
        def refused(*args, **more):
            raise PermissionError(13, "Permission denied")

        file = self.planned(tmp_path)
        monkeypatch.setattr(prune.os, "open", refused)
        with pytest.raises(PermissionError):
            delete(tmp_path, file)

    @pytest.mark.parametrize("name", ["sub/a.safetensors", "../a.safetensors", "sub/gone", "gone/a", "link/a"])
    def test_no_folder_stays_open(self, tmp_path, name):
        file = self.planned(tmp_path)
        (tmp_path / "loras" / "link").symlink_to("sub")
        before = len(list(Path("/dev/fd").iterdir()))
        delete(tmp_path, file._replace(location=Location("loras", name)))
        assert len(list(Path("/dev/fd").iterdir())) == before

    def test_a_folder_that_is_gone_is_no_error(self, tmp_path):
        file = self.planned(tmp_path)
        (tmp_path / "loras").rename(tmp_path / "moved")
        assert delete(tmp_path, file) is Outcome.GONE
