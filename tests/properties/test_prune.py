"""Plan and prune: for any disk, list, prompt and settings, nothing precious goes and no more than must."""

from __future__ import annotations

import fnmatch
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from worker.models import plan
from worker.models.inventory import Inventory
from worker.models.locations import DiskFile, Location
from worker.models.manifest import Entry
from worker.models.prompt_names import find_mentions
from worker.models.prune_rules import (
    PRUNE_MAX_FILES,
    SPARE_BYTES,
    PrunePlan,
    PruneRules,
    files_to_make_room,
    plan_prune,
)
from worker.sites.types import MANAGED_FOLDERS, ModelFile, RepoLine

STARTED_NS = 2_000_000_000_000_000_000
MB = 1 << 20
FOLDERS = ("loras", "loras", "checkpoints", "vae", "embeddings", "unet", "style_models", "..")
NAMES = (
    "a.safetensors",
    "A.safetensors",
    "sub/a.safetensors",
    "b.SafeTensors",
    "c (1).safetensors",
    "f.safetensors",
    "d.ckpt",
)
PLACES = st.builds(Location, st.sampled_from(FOLDERS), st.sampled_from(NAMES))
TIMES = st.sampled_from([-5, -4, -3, -3, -2, -2, -1, -1, 0, 1]).map(lambda step: STARTED_NS + step * 10**9)
SIZES = st.sampled_from([1, 3, 10, 200]).map(lambda size: size * MB)
GLOBS = st.sampled_from([(), (), (), ("a*",), ("*/a.*", "nothing"), ("loras/*",), ("SUB/*",), ("[ab].safetensors",)])
PROMPTS = st.lists(
    st.sampled_from(
        ["A.safetensors", "x\\c.safetensors", "b (1).safetensors", "embedding:a", "<lora:b:1>", "other.sft"]
    ),
    max_size=2,
).map(lambda values: {str(number): {"inputs": {"x": value}} for number, value in enumerate(values)})


@st.composite
def disks(draw):
    """An inventory: files of all kinds, some known to the manifest."""
    files, entries = {}, {}
    for number, location in enumerate(draw(st.lists(PLACES, unique=True, min_size=1, max_size=12))):
        file = DiskFile(
            location, draw(SIZES), draw(TIMES), draw(TIMES), number, draw(st.booleans()) and draw(st.booleans())
        )
        files[location] = file
        if draw(st.booleans()):
            entries[location] = Entry(
                location,
                f"civitai:1:{number}",
                draw(st.sampled_from([location.basename, "other.safetensors"])),
                file.size,
                file.mtime_ns,
                aliases=tuple(draw(st.lists(st.sampled_from(["other.sft", "z.safetensors"]), max_size=1))),
                last_used=draw(st.sampled_from([0.0, 1.0, 2.0, STARTED_NS / 1e9])),
            )
    names = frozenset((p.folder, p.name.casefold()) for p in files if "/" not in p.name)
    return Inventory(files, entries, {}, names)


OPEN = (True, False, False, True, False)
SHUT = [tuple(value != (number == shut) for number, value in enumerate(OPEN)) for shut in range(5)]
"""enabled, list_empty, shared, no_other_job, dry_run: all as pruning needs them, or all but one."""


@st.composite
def situations(draw, gates=(OPEN, OPEN, *SHUT)):
    """(inventory, listed places, prompt, rules)."""
    disk = draw(disks())
    some = st.frozensets(st.sampled_from(sorted(disk.files)), max_size=2) if disk.files else st.just(frozenset())
    enabled, list_empty, shared, no_other_job, dry_run = draw(st.sampled_from(gates))
    rules = PruneRules(
        enabled=enabled,
        list_empty=list_empty,
        shared=shared,
        no_other_job=no_other_job,
        started_ns=STARTED_NS,
        dry_run=dry_run,
        keep_globs=draw(GLOBS),
        keep_bytes=draw(st.sampled_from([0, 0, 1, 5, 12, 210])) * MB,
        preinstalled=frozenset(disk.files[location].fingerprint for location in draw(some)),
        in_use=draw(some),
        used_since=draw(st.sampled_from([None, None, STARTED_NS / 1e9 - 3])),
        last_used=dict.fromkeys(draw(some), draw(st.sampled_from([1.5, 3.0]))),
    )
    return disk, draw(some), draw(PROMPTS), rules


def planned(situation):
    disk, listed, prompt, rules = situation
    return plan_prune(disk, listed, find_mentions(prompt), rules)


def recency(file, disk, rules):
    entry = disk.entries.get(file.location)
    used = max(entry.last_used if entry else 0.0, rules.last_used.get(file.location, 0.0))
    return used or max(file.mtime_ns, file.ctime_ns) / 1e9


@given(situations(gates=[OPEN]))
def test_nothing_that_any_rule_protects_may_ever_go(situation):
    disk, listed, prompt, rules = situation
    mentions = find_mentions(prompt)
    for file in (*planned(situation).to_delete, *planned(situation).cached):
        location, entry = file.location, disk.entries.get(file.location)
        assert location not in listed
        assert location.disk_folder in MANAGED_FOLDERS
        assert location.name.lower().endswith(".safetensors")
        assert not file.linked
        assert file.fingerprint not in rules.preinstalled
        assert location not in rules.in_use
        assert file.mtime_ns < STARTED_NS
        assert file.ctime_ns < STARTED_NS
        assert not mentions.may_mean(location.name, (entry.canonical, *entry.aliases) if entry else ())
        spellings = [str(location).lower(), location.name.lower(), location.basename.lower()]
        assert not any(fnmatch.fnmatchcase(text, glob.lower()) for glob in rules.keep_globs for text in spellings)
        assert rules.used_since is None or recency(file, disk, rules) < rules.used_since


@given(situations())
def test_nothing_goes_with_an_empty_list_or_prune_off_or_beside_another_job_or_on_a_shared_volume(situation):
    rules = situation[3]
    chosen = planned(situation)
    if rules.list_empty or not rules.enabled or rules.shared or not rules.no_other_job:
        assert (chosen.to_delete, chosen.cached) == ((), ())
        assert chosen.blocked_by
    if rules.dry_run:
        assert chosen.blocked_by


@given(situations(gates=[OPEN]))
def test_every_unlisted_file_stays_with_a_reason_or_may_go_and_never_both(situation):
    disk, listed, _, rules = situation
    chosen = planned(situation)
    if rules.blocked_by():
        return
    to_delete, kept = {file.location for file in chosen.to_delete}, set(chosen.kept)
    assert to_delete.isdisjoint(kept)
    assert to_delete | kept == set(disk.files) - set(listed)
    assert {file.location for file in chosen.cached} <= kept


@st.composite
def loose_disks(draw):
    """Files that nothing protects, used at some times; the room is short for them."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=6))
    files = [DiskFile(Location("loras", f"{n}.safetensors"), size * MB, 1, 1, n, False) for n, size in enumerate(sizes)]
    used = {file.location: float(draw(st.integers(1, 4))) for file in files}
    rules = PruneRules(
        enabled=True,
        list_empty=False,
        shared=False,
        no_other_job=True,
        started_ns=STARTED_NS,
        keep_bytes=draw(st.integers(0, 9)) * MB,
        last_used=used,
    )
    return Inventory({file.location: file for file in files}), frozenset(), {}, rules


@given(loose_disks() | situations(gates=[OPEN]))
def test_keep_gb_is_never_exceeded_and_keeps_what_was_used_last(situation):
    disk, _, _, rules = situation
    chosen = planned(situation)
    assert sum(file.size for file in chosen.cached) <= rules.keep_bytes
    for file in chosen.to_delete:
        at_least_as_new = sum(
            other.size for other in chosen.cached if recency(other, disk, rules) >= recency(file, disk, rules)
        )
        assert file.size > rules.keep_bytes - at_least_as_new


@given(situations(gates=[OPEN]))
def test_one_more_listed_model_never_deletes_another(situation):
    disk, listed, prompt, rules = situation
    before = {file.location for file in planned(situation).to_delete}
    for location in disk.files:
        after = {
            file.location
            for file in planned((disk, listed | {location}, prompt, replace(rules, keep_bytes=0))).to_delete
        }
        if not rules.keep_bytes:
            assert after <= before - {location}


@given(st.integers(PRUNE_MAX_FILES - 2, PRUNE_MAX_FILES + 3))
def test_a_plan_over_the_limit_deletes_nothing_and_one_within_it_all(count):
    files = [DiskFile(Location("loras", f"{n}.safetensors"), MB, 1, 1, n, False) for n in range(count)]
    rules = PruneRules(enabled=True, list_empty=False, shared=False, no_other_job=True, started_ns=STARTED_NS)
    to_delete = plan_prune(Inventory({file.location: file for file in files}), (), find_mentions({}), rules).to_delete
    assert len(to_delete) == (count if count <= PRUNE_MAX_FILES else 0)


def stock(*sizes, first):
    """Files of these MB, as a plan lists them: the largest first."""
    return tuple(
        DiskFile(Location("loras", f"{first + n}"), size * MB, 1, 1, n, False)
        for n, size in enumerate(sorted(sizes, reverse=True))
    )


PLANS = st.builds(
    lambda to_delete, cached, blocked_by: PrunePlan(
        stock(*to_delete, first=1), stock(*cached, first=100), {}, blocked_by
    ),
    st.lists(st.integers(1, 4), max_size=3),
    st.lists(st.integers(1, 4), max_size=3),
    st.sampled_from([None, None, None, "prune is off"]),
)


@given(PLANS, st.integers(-2, 14), st.integers(0, 3).map(lambda n: n == 3))
def test_making_room_frees_enough_and_no_file_more(chosen, short_mb, shared):
    needed, free = 100 * MB, SPARE_BYTES + (100 - short_mb) * MB
    first = files_to_make_room(chosen, needed, free, shared=shared)
    missing = short_mb * MB
    may_go = (*chosen.to_delete, *chosen.cached)
    if first is None:
        assert missing > 0
        assert shared or chosen.blocked_by or sum(file.size for file in may_go) < missing
        return
    assert set(first) <= set(may_go)
    assert sum(file.size for file in first) >= missing
    assert not first or sum(file.size for file in first[:-1]) < missing
    assert not (shared or chosen.blocked_by) or first == ()
    assert not set(first) & set(chosen.cached) or set(chosen.to_delete) <= set(first)


# --- which files to fetch, and under which names --------------------------------------------------------------------

IDENTITIES = st.sampled_from(["civitai:1:1", "civitai:1:2", "civitai:2:3", "hf:org/repo@main:a", "http:https://h/a"])
FILENAMES = st.sampled_from(["a.safetensors", "A.safetensors", "b.safetensors", "a.1.safetensors", "漢" * 70 + ".sft"])
WANTED = st.builds(
    lambda number, identity, folder, name, size: ModelFile(
        identity, folder, name, "https://h/a", RepoLine(number, "", f"k{number}", "civitai", "", None, None), size
    ),
    st.integers(1, 9),
    IDENTITIES,
    st.sampled_from(["loras", "diffusion_models"]),
    FILENAMES,
    st.none() | SIZES,
)


@given(st.lists(WANTED, max_size=6))
def test_each_file_is_wanted_once_a_folder_and_answers_to_every_line_and_name_that_meant_it(files):
    wants = plan.unique_wants(files)
    assert len({(want.file.identity, want.file.folder) for want in wants}) == len(wants)
    for file in files:
        (want,) = [want for want in wants if (want.file.identity, want.file.folder) == (file.identity, file.folder)]
        assert file.line.key in want.keys
        assert file.filename in (want.file.filename, *want.aliases)


OTHERS = st.dictionaries(st.builds(Location, st.sampled_from(["loras", "unet"]), FILENAMES), IDENTITIES, max_size=3)


@given(st.lists(WANTED, max_size=6), OTHERS, OTHERS, st.frozensets(st.sampled_from(["a.safetensors", "b.safetensors"])))
def test_new_files_take_names_that_nothing_has_had_or_is_about_to_have(files, begun, deleted_names, there):
    wants = plan.unique_wants(files)
    taken = frozenset(("loras", name) for name in there)
    pending = {location: Entry(location, who, location.name, 0, 0, origin="pending") for location, who in begun.items()}
    locations = plan.choose_locations(wants, Inventory({}, {}, pending, taken), deleted_names)
    keys = [(location.folder, location.name.casefold()) for location in locations]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & taken
    for want, location in zip(wants, locations, strict=True):
        assert location.disk_folder == want.file.folder
        assert "/" not in location.name
        assert len(location.name.encode()) <= 255
        assert location not in pending or pending[location].identity == want.file.identity
        assert deleted_names.get(location, want.file.identity) == want.file.identity
    if wants and not (begun or deleted_names or there):
        assert locations[0].name == wants[0].file.filename
