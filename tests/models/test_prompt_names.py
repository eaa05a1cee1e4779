"""Names in a prompt: which inputs are models, how each is matched, and what is said when nothing matches."""

import copy
import random

import pytest

from worker.errors import Code, WorkerError
from worker.models.prompt_names import Mentions, ModelNames, find_mentions, loose_spelling, match_models, nearest


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def combo(*options):
    return [list(options), {"tooltip": "as ComfyUI up to now sends it"}]


def new_combo(*options):
    return ["COMBO", {"options": list(options), "multiselect": False}]


def info(optional=None, **required):
    return {"input": {"required": required, "optional": optional or {}}}


def checkpoints(*options):
    return {"CheckpointLoaderSimple": info(ckpt_name=combo(*options))}


def read_as(value, *options, names=None):
    prompt = {"4": node("CheckpointLoaderSimple", ckpt_name=value)}
    return match_models(prompt, checkpoints(*options), names).prompt["4"]["inputs"]["ckpt_name"]


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        ("a.safetensors", ["a.safetensors", "A.safetensors"], "a.safetensors"),
        ("sub/a.safetensors", ["sub/a.safetensors", "a.safetensors"], "sub/a.safetensors"),
        ("sub\\a.safetensors", ["sub/a.safetensors", "a.safetensors"], "sub/a.safetensors"),
        ("sdxl\\a.safetensors", ["a.safetensors", "b.safetensors"], "a.safetensors"),
        ("a.safetensors", ["deep/in/a.safetensors"], "deep/in/a.safetensors"),
        ("a (1).safetensors", ["a.safetensors"], "a.safetensors"),
        ("a (12).safetensors", ["x/a.safetensors"], "x/a.safetensors"),
        ("a (1).safetensors", ["a.safetensors", "a (1).safetensors"], "a (1).safetensors"),
        ("A.SafeTensors", ["a.safetensors"], "a.safetensors"),
        ("SDXL\\A (2).safetensors", ["a.safetensors"], "a.safetensors"),
        ("e\u0301te.safetensors", ["\u00e9te.safetensors"], "\u00e9te.safetensors"),
        ("My Model $&[x].safetensors", ["my model $&[x].safetensors"], "my model $&[x].safetensors"),
        ("sub/A.safetensors", ["other/a.safetensors", "Sub/a.safetensors"], "Sub/a.safetensors"),
    ],
)
def test_a_name_is_matched_by_the_first_step_that_finds_exactly_one(value, options, expected):
    assert read_as(value, *options) == expected


def test_a_step_that_finds_two_does_not_count():
    with pytest.raises(WorkerError) as caught:
        read_as("a.safetensors", "x/a.safetensors", "y/a.safetensors")
    assert caught.value.details["missing"][0]["candidates"] == ["x/a.safetensors", "y/a.safetensors"]


def test_an_alias_is_the_last_step():
    names = ModelNames(aliases={"checkpoints": {"canonical.safetensors": ("123.safetensors", "old name.safetensors")}})
    assert read_as("sub\\Old Name (1).safetensors", "canonical.safetensors", names=names) == "canonical.safetensors"
    assert read_as("123.safetensors", "canonical.safetensors", "123.safetensors", names=names) == "123.safetensors"


def test_an_alias_that_two_files_share_counts_for_neither():
    names = ModelNames(
        aliases={"checkpoints": {"a.safetensors": ("x.safetensors",), "b.safetensors": ("x.safetensors",)}}
    )
    with pytest.raises(WorkerError):
        read_as("x.safetensors", "a.safetensors", "b.safetensors", names=names)


def test_an_alias_of_a_file_that_comfyui_does_not_list_is_no_match():
    names = ModelNames(aliases={"loras": {"a.safetensors": ("x.safetensors",)}})
    with pytest.raises(WorkerError):
        read_as("x.safetensors", "other.safetensors", names=names)


def test_a_listed_file_that_had_to_take_another_name_wins_over_the_unlisted_one_that_has_it():
    names = ModelNames(renamed={"checkpoints": {"flux.safetensors": "flux.7.safetensors"}})
    options = ("flux.safetensors", "flux.7.safetensors")
    assert read_as("flux.safetensors", *options, names=names) == "flux.7.safetensors"
    assert read_as("x\\flux.safetensors", *options, names=names) == "flux.7.safetensors"
    assert read_as("flux.7.safetensors", *options, names=names) == "flux.7.safetensors"


def test_each_folder_finds_its_own_renamed_file_where_two_have_renamed_one_name():
    names = ModelNames(
        {}, {"loras": {"x.safetensors": "x.1.safetensors"}, "checkpoints": {"x.safetensors": "x.2.safetensors"}}
    )
    assert read_as("x.safetensors", "x.safetensors", "x.1.safetensors", names=names) == "x.1.safetensors"
    assert read_as("x.safetensors", "x.safetensors", "x.2.safetensors", names=names) == "x.2.safetensors"


def test_a_copy_of_a_copy_protects_the_copy_it_is_read_as():
    assert read_as("a (1) (1).safetensors", "a (1).safetensors") == "a (1).safetensors"
    assert find_mentions({"1": node("X", a="a (1) (1).safetensors")}).may_mean("a (1).safetensors")


@pytest.mark.parametrize("broken", [{"input": 5}, {"input": {"required": 5}}, {"input": {"required": None}}])
def test_an_odd_description_of_a_node_is_no_list_of_models(broken):
    prompt = {"1": node("Odd", ckpt_name="a.safetensors")}
    assert match_models(prompt, {"Odd": broken}).prompt == prompt


def test_what_was_changed_is_said_and_the_callers_prompt_is_not_touched():
    prompt = {"4": node("CheckpointLoaderSimple", ckpt_name="sdxl\\A.safetensors")}
    before = copy.deepcopy(prompt)
    result = match_models(prompt, checkpoints("a.safetensors"))
    assert prompt == before
    assert result.prompt["4"]["inputs"] is not prompt["4"]["inputs"]
    assert result.warnings == [
        "node 4 (CheckpointLoaderSimple) ckpt_name: 'sdxl\\\\A.safetensors' was read as 'a.safetensors'"
    ]


def test_the_newer_combo_form_and_optional_inputs_are_read_too():
    infos = {"DualCLIPLoader": info({"third": new_combo("c.safetensors")}, clip_name1=new_combo("a.safetensors"))}
    prompt = {"1": node("DualCLIPLoader", clip_name1="A.safetensors", third="x\\c.safetensors")}
    inputs = match_models(prompt, infos).prompt["1"]["inputs"]
    assert inputs == {"clip_name1": "a.safetensors", "third": "c.safetensors"}


@pytest.mark.parametrize(
    ("class_type", "inputs", "spec"),
    [
        ("KSampler", {"sampler_name": "nonsense"}, info(sampler_name=combo("euler", "dpmpp_2m"))),
        ("LoadImage", {"image": "picture.png"}, info(image=combo("example.png"))),
        ("LoraLoader", {"lora_name": ["7", 0]}, info(lora_name=combo("a.safetensors"))),
        ("LoraLoader", {"lora_name": "None"}, info(lora_name=combo("a.safetensors"))),
        ("LoraStack", {"lora_01": "None"}, info(lora_01=combo("None", "a.safetensors"))),
        ("VAEChooser", {"vae_name": "Baked VAE"}, info(vae_name=combo("Baked VAE", "a.safetensors"))),
        ("Text", {"text": "my.safetensors"}, info(text=["STRING", {"multiline": True}])),
        ("Remote", {"model": "a.safetensors"}, info(model=["COMBO", {"remote": {"route": "/x"}}])),
        ("CLIPTextEncode", {"text": "cat, embedding:bad.pt"}, info(text=["STRING", {}])),
        ("Odd", {"x": 3, "y": None, "z": {"lora": "a.safetensors"}}, info(x=["INT"], z=["*"])),
        ("NotInObjectInfo", {"ckpt_name": "gone.safetensors"}, None),
    ],
)
def test_inputs_that_are_no_list_of_models_are_left_alone(class_type, inputs, spec):
    prompt = {"1": node(class_type, **inputs)}
    result = match_models(prompt, {class_type: spec} if spec else {})
    assert result.prompt == prompt
    assert result.warnings == []


def test_a_workflow_inside_the_prompt_is_never_rewritten():
    workflow = {"nodes": [{"widgets_values": ["sdxl\\A.safetensors"]}]}
    prompt = {"4": node("CheckpointLoaderSimple", ckpt_name="A.safetensors", extra=workflow)}
    assert match_models(prompt, checkpoints("a.safetensors")).prompt["4"]["inputs"]["extra"] == workflow


def test_every_missing_model_is_named_with_what_is_near_and_the_line_to_add():
    infos = {
        **checkpoints("dreamshaper_8.safetensors", "z.safetensors"),
        "LoraLoader": info(lora_name=combo()),
        "UpscaleModelLoader": info(model_name=combo("4x_foo.pth")),
    }
    prompt = {
        "4": node("CheckpointLoaderSimple", ckpt_name="dreamshaper_7.safetensors"),
        "5": node("LoraLoader", lora_name="detail.safetensors", strength_model=1.0),
        "6": node("UpscaleModelLoader", model_name="RealESRGAN_x4.pth"),
        "7": node("CheckpointLoaderSimple", ckpt_name="z.safetensors"),
    }
    with pytest.raises(WorkerError) as caught:
        match_models(prompt, infos)
    error = caught.value
    assert error.code is Code.MODEL_MISSING
    first, second, third = error.details["missing"]
    assert first == {
        "node_id": "4",
        "class_type": "CheckpointLoaderSimple",
        "input": "ckpt_name",
        "value": "dreamshaper_7.safetensors",
        "candidates": ["dreamshaper_8.safetensors"],
        "line": "ckpt https://civitai.com/api/download/models/<version id>",
    }
    assert (second["node_id"], second["candidates"]) == ("5", [])
    assert second["line"].startswith("lora https://")
    assert third["line"].startswith("upscale https://")
    assert "node 4 (CheckpointLoaderSimple) ckpt_name: 'dreamshaper_7.safetensors' is not here" in str(error)
    assert "nearest: dreamshaper_8.safetensors" in str(error)
    assert 'Add "ckpt https://' in str(error)
    assert "this worker has no model for this input" in str(error)


def test_a_long_list_of_missing_models_stays_readable():
    prompt = {str(n): node("CheckpointLoaderSimple", ckpt_name=f"no{n}.safetensors") for n in range(40)}
    with pytest.raises(WorkerError) as caught:
        match_models(prompt, checkpoints("a.safetensors"))
    assert len(caught.value.details["missing"]) == 40
    assert len(str(caught.value)) < 1200
    assert "and 35 more" in str(caught.value)


def test_broken_prompts_do_not_break_the_matching():
    prompt = {"1": None, "2": {"class_type": "X"}, "3": {"class_type": "X", "inputs": []}, "4": node("X", a="b.pt")}
    assert match_models(prompt, {"X": {"input": None}}).prompt == prompt
    assert match_models(prompt, {"X": {"input": {"required": {"a": []}}}}).prompt == prompt


def test_nearest_is_empty_when_nothing_is_like_it():
    assert nearest("qqqq.safetensors", ["landscape_xl.ckpt"]) == []


MENTIONING = {
    "1": node("CheckpointLoaderSimple", ckpt_name="SDXL\\Base (1).safetensors"),
    "2": node("CLIPTextEncode", text="a cat, (embedding:EasyNegative:1.2), embedding:sub\\worst, <lora:detail:0.8>"),
    "3": node("Power Lora Loader", lora_1={"on": True, "lora": "style/Ink.safetensors", "strength": 1}),
    "4": node("Stack", text="one.safetensors\n  two.safetensors \nnot a model"),
    "5": node("List", names=["three.safetensors", ["four.SafeTensors"]]),
}


@pytest.mark.parametrize(
    "name",
    [
        "base.safetensors",
        "somewhere/BASE.safetensors",
        "EasyNegative.safetensors",
        "worst.safetensors",
        "sub/worst.safetensors",
        "detail.safetensors",
        "Ink.safetensors",
        "one.safetensors",
        "two.safetensors",
        "x/three (1).safetensors",
        "four.safetensors",
    ],
)
def test_a_prompt_protects_every_file_it_may_mean(name):
    assert find_mentions(MENTIONING).may_mean(name)


@pytest.mark.parametrize(
    "name", ["other.safetensors", "cat.safetensors", "not a model.safetensors", "basement.safetensors"]
)
def test_a_prompt_protects_no_other_file(name):
    assert not find_mentions(MENTIONING).may_mean(name)


def test_a_prompt_protects_a_file_by_its_other_names():
    assert find_mentions({"1": node("X", a="alias.safetensors")}).may_mean(
        "real.safetensors", ["Alias (2).safetensors"]
    )


def test_embedding_names_with_spaces_and_brackets_are_protected():
    mentions = find_mentions({"1": node("CLIPTextEncode", text="embedding:bad hands (v5), ugly")})
    assert mentions.may_mean("bad hands (v5).safetensors")


def test_nothing_mentioned_protects_nothing():
    assert not Mentions().may_mean("a.safetensors")
    assert not find_mentions({}).may_mean("a.safetensors")


def test_random_disguises_are_all_seen_through():
    """Any name, put in folders, given a browser's suffix, another case and backslashes, is read as the file it is."""
    rng = random.Random(20)
    alphabet = "abcXYZ019 _-.éß日$&[]"
    for _ in range(300):
        stem = "".join(rng.choices(alphabet, k=rng.randint(1, 12))).strip(" .") or "m"
        name = f"{stem}.safetensors"
        others = [f"{stem}{n}x.safetensors" for n in range(3)]
        disguised = name
        if rng.random() < 0.5:
            disguised = f"{stem} ({rng.randint(1, 30)}).safetensors"
        if rng.random() < 0.5:
            disguised = rng.choice([disguised.upper(), disguised.swapcase()])
        for _ in range(rng.randint(0, 2)):
            disguised = rng.choice(["XL", "a b", "日"]) + rng.choice("/\\") + disguised
        assert read_as(disguised, name, *others) == name
        assert loose_spelling(disguised) == loose_spelling(name)
