"""Model names: a prompt's spelling means one file of this worker or none, and nothing else of the prompt changes."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import JSON, TEXT, broken
from worker.errors import Code, WorkerError
from worker.models.prompt_names import NO_MODEL, ModelNames, find_mentions, is_model_name, loose_spelling, match_models

FOLDERS = st.sampled_from(["", "", "sub/", "sub\\", "SUB/deep/", "x\\y/"])
STEMS = st.sampled_from(["a", "A", "b", "ä", "a\u0308", "a b", "a (1)", "ß", "SS", "m.v2"])
COPIES = st.sampled_from(["", "", " (1)", " (12)", " (1) (1)"])
ENDINGS = st.sampled_from([".safetensors", ".SafeTensors", ".ckpt", ".gguf"])
FILES = st.builds(lambda *parts: "".join(parts), FOLDERS, STEMS, COPIES, ENDINGS)
VALUES = st.one_of(
    FILES, FILES, FILES.map(lambda name: f" {name}"), st.sampled_from(["", "None", "a", "baked VAE"]), TEXT
)
OPTIONS = st.lists(FILES.map(lambda name: name.replace("\\", "/")), max_size=5, unique=True)


def prompt_of(*values, more=None):
    """One loader for each value, a node that reads from it, and inputs that are no names."""
    nodes = {
        str(number): {"class_type": "Loader", "inputs": {"name": value, "strength": 0.5, **(more or {})}}
        for number, value in enumerate(values)
    }
    return {**nodes, "save": {"class_type": "Save", "inputs": {"model": ["0", 0], "text": "a.safetensors, painted"}}}


def info_of(options):
    return {"Loader": {"input": {"required": {"name": [options, {}], "model": ["MODEL"]}}}}


@st.composite
def aliases(draw, options):
    listed = draw(st.lists(st.sampled_from(options), max_size=2, unique=True)) if options else []
    return {"loras": {name: tuple(draw(st.lists(FILES, max_size=2))) for name in listed}}


@st.composite
def situations(draw):
    """(values, options, names of the job)."""
    options = draw(OPTIONS)
    names = ModelNames(draw(aliases(options)))
    values = st.builds(disguised, st.sampled_from(options), FOLDERS, st.booleans()) | VALUES if options else VALUES
    return draw(st.lists(values, min_size=1, max_size=3)), options, names


def disguised(option, folder, loud):
    """A file's name as another machine may have it."""
    name = folder + option.rpartition("/")[2]
    return name.upper() if loud else name


def matched(values, options, names=None):
    """What each value was read as; None where the prompt was refused as the contract has it."""
    try:
        found = match_models(prompt_of(*values), info_of(options), names or ModelNames())
    except WorkerError as error:
        assert error.code is Code.MODEL_MISSING
        assert error.details["missing"]
        return None
    return [found.prompt[str(number)]["inputs"]["name"] for number in range(len(values))]


def may_mean(value, options, names):
    """The options that any spelling of the value could stand for."""
    plain = {loose_spelling(value), loose_spelling(loose_spelling(value))}
    called = {
        option
        for option in options
        for other in names.aliases.get("loras", {}).get(option, ())
        if loose_spelling(other) == loose_spelling(value)
    }
    return {option for option in options if loose_spelling(option) in plain} | called


@given(situations())
def test_a_name_is_read_as_a_file_that_is_here_and_that_it_may_mean(situation):
    values, options, names = situation
    for value, found in zip(values, matched(*situation) or (), strict=False):
        assert found == value or found in may_mean(value, options, names)


@given(situations())
def test_a_name_that_is_here_exactly_is_never_read_as_another(situation):
    values, options, names = situation
    here = [value for value in values if value in options]
    assert matched(here, options, names) == here


@given(situations())
def test_a_name_that_can_mean_nothing_here_is_refused(situation):
    values, options, names = situation
    for value in values:
        if value.strip().lower() in NO_MODEL or not (is_model_name(value) or options):
            continue
        candidates = may_mean(value, options, names)
        if not candidates:
            assert matched([value], options, names) is None


ORDINARY = st.builds("{}{}{}".format, STEMS.filter(lambda stem: "(" not in stem), st.just(""), ENDINGS)


@given(ORDINARY, FOLDERS, COPIES, st.booleans(), st.lists(st.sampled_from(["z.safetensors", "y/q.ckpt"]), unique=True))
def test_a_name_from_another_machine_is_found_when_one_file_alone_can_be_meant(name, folder, number, loud, others):
    stem, _, ending = name.rpartition(".")
    value = f"{folder}{stem}{number.removesuffix(' (1)') if number == ' (1) (1)' else number}.{ending}"
    options = [f"my/{name}", *others]
    assert matched([value.upper() if loud else value], options) == [f"my/{name}"]


@given(situations(), st.randoms(use_true_random=False))
def test_the_order_in_which_comfyui_lists_its_files_decides_nothing(situation, random):
    values, options, names = situation
    shuffled = list(options)
    random.shuffle(shuffled)
    assert matched(values, options, names) == matched(values, shuffled, names)


@given(STEMS, st.lists(st.sampled_from(["one/", "two/", "three/"]), min_size=2, unique=True), st.booleans())
def test_a_name_that_two_files_answer_equally_well_is_refused(stem, folders, loud):
    options = [f"{folder}{stem}.safetensors" for folder in folders]
    assert matched([f"{stem}.SAFETENSORS" if loud else f"elsewhere/{stem}.safetensors"], options) is None


@given(situations())
def test_matching_what_was_matched_changes_nothing(situation):
    values, options, names = situation
    try:
        once = match_models(prompt_of(*values), info_of(options), names)
    except WorkerError:
        return
    twice = match_models(once.prompt, info_of(options), names)
    assert (twice.prompt, twice.warnings) == (once.prompt, [])


@given(situations(), st.dictionaries(st.sampled_from(["x", "y", "seed", "model"]), JSON, max_size=3))
def test_links_and_other_inputs_stay_and_the_callers_prompt_is_not_touched(situation, more):
    values, options, names = situation
    prompt = prompt_of(*values, more=more)
    before = copy.deepcopy(prompt)
    try:
        found = match_models(prompt, info_of(options), names).prompt
    except WorkerError:
        assert repr(prompt) == repr(before)
        return
    assert repr(prompt) == repr(before)
    for node in found.values():
        node["inputs"].pop("name", None)
    for node in before.values():
        node["inputs"].pop("name", None)
    assert repr(found) == repr(before)


@given(situations())
def test_a_file_that_the_prompt_would_load_is_one_that_pruning_takes_for_named(situation):
    values, options, names = situation
    mentions = find_mentions(prompt_of(*values))
    for value, found in zip(values, matched(*situation) or (), strict=False):
        if value.strip().lower() not in NO_MODEL and found in options:
            assert mentions.may_mean(found, names.aliases.get("loras", {}).get(found, ()))


@given(st.sampled_from(["a", "b"]), st.permutations(["loras", "checkpoints"]), st.booleans())
def test_a_renamed_file_is_found_in_its_own_folder_whatever_another_folder_has_renamed(stem, folders, taken):
    name = f"{stem}.safetensors"
    renamed = {folder: {name: f"{stem}.{number}.safetensors"} for number, folder in enumerate(folders)}
    for number in range(2):
        options = [f"{stem}.{number}.safetensors", *([name] if taken else [])]
        assert matched([name], options, ModelNames({}, renamed)) == [f"{stem}.{number}.safetensors"]


NODES = {
    "1": {"class_type": "Loader", "inputs": {"name": "a.safetensors", "model": ["2", 0]}},
    "2": {"class_type": "Text", "inputs": {"text": "embedding:easy <lora:x:1>"}, "_meta": {"title": "t"}},
}
INFO = {
    "Loader": {
        "input": {"required": {"name": [["a.safetensors"], {}]}, "optional": {"x": ["COMBO", {"options": ["b"]}]}}
    }
}


@given(broken(NODES).filter(lambda prompt: isinstance(prompt, dict)), broken(INFO))
def test_any_prompt_and_any_object_info_end_in_a_prompt_or_in_model_missing(prompt, info):
    find_mentions(prompt)
    try:
        match_models(prompt, info if isinstance(info, dict) else {})
    except WorkerError as error:
        assert error.code is Code.MODEL_MISSING
