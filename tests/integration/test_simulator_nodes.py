"""The simulator's nodes do what they say: pictures, their metadata and names, caching, loading, sampling, packs."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests.support.prompts import node
from tests.support.simulator_process import CHECKPOINT, Engine, Run

PACK = """
from aiohttp import web
from server import PromptServer
import folder_paths, nodes

@PromptServer.instance.routes.get("/pack/hello")
async def hello(request):
    return web.json_response({"nodes": len(nodes.NODE_CLASS_MAPPINGS), "output": folder_paths.get_output_directory()})

class Shout:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "pack", "shout", ("STRING",), True
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}, "hidden": {"id": "UNIQUE_ID"}}
    @classmethod
    def IS_CHANGED(cls, text):
        return float("nan")
    @classmethod
    def VALIDATE_INPUTS(cls, text):
        return "say something" if text == "" else True
    def shout(self, text, id):
        return {"ui": {"text": [text.upper() + id]}, "result": (text.upper(),)}

class Later(Shout):
    async def shout(self, text, id):
        return {"ui": {"text": [text]}}
    VALIDATE_INPUTS = None

class Spread:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_IS_LIST = "pack", "spread", ("STRING",), (True,)
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {"default": 2})}}
    def spread(self, count):
        return ([str(i) * 2 for i in range(count)],)

NODE_CLASS_MAPPINGS = {"Shout": Shout, "Later": Later, "Spread": Spread}
NODE_DISPLAY_NAME_MAPPINGS = {"Shout": "Shout it"}
WEB_DIRECTORY = "./web"
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    base = tmp_path_factory.mktemp("simulator")
    pack = base / "custom_nodes" / "a-pack"
    (pack / "web").mkdir(parents=True)
    (pack / "__init__.py").write_text(PACK)
    (pack / "web" / "pack.js").write_text("// hello")
    (base / "custom_nodes" / "broken.py").write_text("raise RuntimeError('not today')")
    with Engine(base=base) as engine:
        engine.add_model("checkpoints", CHECKPOINT)
        yield engine


def empty(width: int = 64, height: int = 64, color: int = 0, batch_size: int = 1) -> dict[str, Any]:
    return node("EmptyImage", width=width, height=height, batch_size=batch_size, color=color)


def save(source: str, slot: int = 0, prefix: str = "test") -> dict[str, Any]:
    return node("SaveImage", images=[source, slot], filename_prefix=prefix)


def pictures(engine: Engine, prompt: dict[str, Any], **more: Any) -> list[Image.Image]:
    run = engine.run(prompt, **more)
    assert run.history["status"]["status_str"] == "success", run.history["status"]
    return [Image.open(io.BytesIO(engine.get("/view", params=image).content)) for image in run.images]


def picture(engine: Engine, last: dict[str, Any], **nodes: dict[str, Any]) -> Image.Image:
    return pictures(engine, {**nodes, "last": last, "save": save("last")})[0]


def test_an_empty_image_has_its_colour_and_size(engine: Engine) -> None:
    image = picture(engine, empty(40, 24, 0x112233))
    assert (image.size, image.getpixel((0, 0))) == ((40, 24), (0x11, 0x22, 0x33))


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
def test_scaling_keeps_the_aspect_when_one_side_is_open(engine: Engine, method: str) -> None:
    scale = node("ImageScale", image=["1", 0], upscale_method=method, width=32, height=0, crop="disabled")
    assert picture(engine, scale, **{"1": empty(64, 48)}).size == (32, 24)


def test_scaling_by_a_factor(engine: Engine) -> None:
    scale = node("ImageScaleBy", image=["1", 0], upscale_method="bilinear", scale_by=0.5)
    assert picture(engine, scale, **{"1": empty(64, 48)}).size == (32, 24)


def test_scaling_with_a_centred_crop_does_not_squeeze(engine: Engine) -> None:
    striped = Image.new("RGB", (90, 30), "red")
    striped.paste("blue", (30, 0, 60, 30))
    upload(engine, "stripes.png", striped)
    scale = node("ImageScale", image=["1", 0], upscale_method="nearest-exact", width=30, height=30, crop="center")
    image = picture(engine, scale, **{"1": node("LoadImage", image="stripes.png")})
    assert image.getcolors() == [(900, (0, 0, 255))]


def upload(engine: Engine, name: str, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    assert engine.upload(name, buffer.getvalue(), overwrite="true").ok


def test_inverting(engine: Engine) -> None:
    image = picture(engine, node("ImageInvert", image=["1", 0]), **{"1": empty(color=0xFF0010)})
    assert image.getpixel((5, 5)) == (0, 255, 239)


def test_a_batch_takes_the_size_of_its_first(engine: Engine) -> None:
    nodes = {
        "1": empty(64, 32),
        "2": empty(16, 16, 0xFFFFFF),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
    }
    assert [one.size for one in pictures(engine, {**nodes, "4": save("3")})] == [(64, 32), (64, 32)]


def test_cropping_stays_inside(engine: Engine) -> None:
    crop = node("ImageCrop", image=["1", 0], width=50, height=10, x=40, y=60)
    assert picture(engine, crop, **{"1": empty(64, 64)}).size == (24, 4)


def test_compositing_with_and_without_a_mask(engine: Engine) -> None:
    base = {
        "1": empty(64, 64, 0x000000),
        "2": empty(16, 16, 0xFFFFFF),
        "3": node("SolidMask", value=0.5, width=8, height=8),
    }
    inputs = {"destination": ["1", 0], "source": ["2", 0], "x": 8, "y": 8, "resize_source": False}
    plain = picture(engine, node("ImageCompositeMasked", **inputs), **base)
    masked = picture(engine, node("ImageCompositeMasked", **inputs, mask=["3", 0]), **base)
    assert [plain.getpixel(at) for at in ((7, 7), (8, 8), (23, 23), (24, 24))] == [
        (0,) * 3,
        (255,) * 3,
        (255,) * 3,
        (0,) * 3,
    ]
    assert masked.getpixel((10, 10)) == (128, 128, 128)


def test_padding_for_outpainting_masks_what_is_new(engine: Engine) -> None:
    pad = node("ImagePadForOutpaint", image=["1", 0], left=16, top=0, right=0, bottom=8, feathering=0)
    nodes = {"1": empty(32, 32, 0xFF0000), "2": pad, "3": node("MaskToImage", mask=["2", 1])}
    image, mask = pictures(engine, {**nodes, "4": save("2"), "5": save("3", prefix="mask")})
    assert (image.size, image.getpixel((0, 0)), image.getpixel((20, 5))) == ((48, 40), (128,) * 3, (255, 0, 0))
    assert [mask.getpixel(at) for at in ((0, 0), (20, 5), (20, 35))] == [(255,) * 3, (0,) * 3, (255,) * 3]


def test_loading_a_picture_splits_off_its_transparency(engine: Engine) -> None:
    upload(engine, "half.png", Image.new("RGBA", (20, 10), (10, 20, 30, 64)))
    nodes = {"1": node("LoadImage", image="half.png"), "2": node("MaskToImage", mask=["1", 1])}
    image, mask = pictures(engine, {**nodes, "3": save("1"), "4": save("2", prefix="mask")})
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (10, 20, 30))
    assert mask.getpixel((0, 0)) == (191, 191, 191)


def test_loading_a_mask_takes_the_channel_it_names(engine: Engine) -> None:
    upload(engine, "channels.png", Image.new("RGBA", (8, 8), (10, 20, 30, 40)))
    values = []
    for channel in ("red", "green", "blue", "alpha"):
        load = node("LoadImageMask", image="channels.png", channel=channel)
        values.append(picture(engine, node("MaskToImage", mask=["1", 0]), **{"1": load}).getpixel((0, 0))[0])
    assert values == [10, 20, 30, 215]


def test_an_output_can_be_loaded_again(engine: Engine) -> None:
    name = engine.run({"1": empty(12, 12), "2": save("1", prefix="again")}).images[0]["filename"]
    assert picture(engine, node("LoadImageOutput", image=f"{name} [output]")).size == (12, 12)


def test_a_saved_picture_carries_its_prompt_and_workflow(engine: Engine) -> None:
    prompt = {"1": empty(color=77), "2": save("1")}
    extra = {"extra_pnginfo": {"workflow": {"nodes": ["ü"]}, "more": 1}}
    image = pictures(engine, prompt, extra_data=extra)[0]
    assert json.loads(image.text["prompt"]) == prompt
    assert (json.loads(image.text["workflow"]), image.text["more"]) == ({"nodes": ["ü"]}, "1")


def test_numbers_go_on_from_the_highest_there_is(engine: Engine) -> None:
    folder = engine.output / "numbers"
    folder.mkdir()
    for name in ("a_00007_.png", "a_9.png", "ab_00050_.png", "a_x_00090_.png"):
        (folder / name).touch()
    run = engine.run({"1": empty(batch_size=2, color=3), "2": save("1", prefix="numbers/a")})
    assert [image["filename"] for image in run.images] == ["a_00008_.png", "a_00009_.png"]
    assert {image["subfolder"] for image in run.images} == {"numbers"}


def test_tokens_in_a_name_are_filled_in(engine: Engine) -> None:
    image = engine.run({"1": empty(72, 40), "2": save("1", prefix="t/%width%x%height%-%year%/b%batch_num%")}).images[0]
    assert image["filename"] == "b0_00001_.png"
    assert image["subfolder"].startswith("t/72x40-20")


def test_a_preview_goes_to_the_temp_folder_under_a_random_name(engine: Engine) -> None:
    image = engine.run({"1": empty(), "2": node("PreviewImage", images=["1", 0])}).images[0]
    assert image["type"] == "temp"
    assert (engine.temp_parent / "temp" / image["filename"]).exists()


def executed_nodes(run: Run) -> list[str]:
    return [one["node"] for one in run.of("executing")][:-1]


def test_only_what_changed_is_executed_again(engine: Engine) -> None:
    prompt = {"1": empty(color=5), "2": node("ImageInvert", image=["1", 0]), "3": save("2")}
    engine.run(prompt)
    run = engine.run({**prompt, "3": save("2", prefix="other")})
    assert executed_nodes(run) == ["3"]
    assert run.of("execution_cached")[0]["nodes"] == ["1", "2"]


def test_a_renumbered_prompt_is_still_cached(engine: Engine) -> None:
    engine.run({"1": empty(color=6), "2": save("1")})
    assert executed_nodes(engine.run({"10": empty(color=6), "20": save("10")})) == []


def test_a_picture_with_other_bytes_is_loaded_again(engine: Engine) -> None:
    prompt = {"1": node("LoadImage", image="changing.png"), "2": save("1")}
    upload(engine, "changing.png", Image.new("RGB", (8, 8), "red"))
    engine.run(prompt)
    assert executed_nodes(engine.run(prompt)) == []
    upload(engine, "changing.png", Image.new("RGB", (8, 8), "blue"))
    assert executed_nodes(engine.run(prompt)) == ["1", "2"]


def test_freed_memory_forgets_results(engine: Engine) -> None:
    prompt = {"1": empty(color=8), "2": save("1")}
    engine.run(prompt)
    engine.post("/free", json={"free_memory": True})
    assert executed_nodes(engine.run(prompt)) == ["1", "2"]


def sampling(**changes: Any) -> dict[str, Any]:
    wanted = {"seed": 1, "steps": 2, "cfg": 7.0, "text": "a cat", "ckpt": CHECKPOINT, "denoise": 1.0, **changes}
    sampler = {name: wanted[name] for name in ("seed", "steps", "cfg", "denoise")}
    links = {
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": wanted.get("latent", ["5", 0]),
    }
    return {
        "3": node("KSampler", **sampler, sampler_name="euler", scheduler="normal", **links),
        "4": node("CheckpointLoaderSimple", ckpt_name=wanted["ckpt"]),
        "5": node("EmptyLatentImage", width=128, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text=wanted["text"], clip=["4", 1]),
        "7": node("CLIPTextEncode", text="bad", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": save("8", prefix="sampled"),
    }


def test_the_drawn_picture_depends_on_everything_that_a_model_would_depend_on(engine: Engine) -> None:
    engine.add_model("checkpoints", "sub/other.safetensors")
    changes = ({}, {"seed": 2}, {"text": "a dog"}, {"steps": 3}, {"cfg": 8.0}, {"ckpt": "sub/other.safetensors"})
    drawn = [pictures(engine, sampling(**change))[0] for change in changes]
    assert {one.size for one in drawn} == {(128, 64)}
    assert len({one.tobytes() for one in drawn}) == len(changes)
    engine.post("/free", json={"free_memory": True})
    assert pictures(engine, sampling())[0].tobytes() == drawn[0].tobytes()


def test_image_to_image_keeps_what_denoise_leaves(engine: Engine) -> None:
    nodes = {"1": empty(128, 64, 0xFF0000), "2": node("VAEEncode", pixels=["1", 0], vae=["4", 2])}
    little = pictures(engine, {**sampling(denoise=0.05, latent=["2", 0]), **nodes})[0]
    reds = [little.getpixel((x, 32))[0] for x in range(0, 128, 16)]
    assert min(reds) > 220


def test_an_advanced_sampler_takes_only_its_part_of_the_steps(engine: Engine) -> None:
    prompt = sampling()
    inputs = {name: value for name, value in prompt["3"]["inputs"].items() if name not in {"seed", "denoise"}}
    part = {
        "add_noise": "enable",
        "noise_seed": 5,
        "start_at_step": 2,
        "end_at_step": 6,
        "return_with_leftover_noise": "enable",
    }
    prompt["3"] = node("KSamplerAdvanced", **{**inputs, "steps": 10, **part})
    run = engine.run(prompt)
    assert [(one["value"], one["max"]) for one in run.of("progress")] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_interrupt_stops_between_two_steps(engine: Engine) -> None:
    with engine.client() as client:
        client.post(sampling(steps=1000, seed=99))
        client.until(lambda frame: isinstance(frame, bytes))
        engine.post("/interrupt")
        ended = client.until(lambda frame: not isinstance(frame, bytes) and frame["type"] == "execution_interrupted")
    assert ended[-1]["data"]["node_type"] == "KSampler"


HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty", b"", "header too small"),
        ("html", b"<!DOCTYPE html><html></html>", "header too large"),
        ("cut", struct.pack("<Q", len(HEADER)) + HEADER + b"1234", "incomplete metadata, file not fully covered"),
        ("short", struct.pack("<Q", 1000) + b"{}", "invalid header length"),
    ],
)
def test_a_loader_fails_on_a_broken_file_in_the_librarys_words(
    engine: Engine, name: str, data: bytes, message: str
) -> None:
    engine.add_model("checkpoints", f"{name}.safetensors", data)
    error = engine.run(sampling(ckpt=f"{name}.safetensors")).of("execution_error")[0]
    assert error["exception_message"] == f"Error while deserializing header: {message}\n"
    assert error["exception_type"] == "safetensors._safetensors_rust.SafetensorError"
    assert error["node_type"] == "CheckpointLoaderSimple"


def test_a_lora_changes_the_picture_unless_its_strength_is_nothing(engine: Engine) -> None:
    engine.add_model("loras", "style.safetensors")

    def drawn(strength: float) -> bytes:
        lora = node(
            "LoraLoader",
            model=["4", 0],
            clip=["4", 1],
            lora_name="style.safetensors",
            strength_model=strength,
            strength_clip=strength,
        )
        prompt = sampling()
        prompt["3"]["inputs"]["model"] = ["1", 0]
        return pictures(engine, {**prompt, "1": lora})[0].tobytes()

    assert drawn(0) == pictures(engine, sampling())[0].tobytes()
    assert drawn(1) != drawn(0)


def test_models_are_listed_recursively_and_only_those(engine: Engine) -> None:
    for name in ("deep/er/a.safetensors", "b.pth", "notes.txt", "c.safetensors.part"):
        engine.add_model("upscale_models", name)
    assert engine.get("/models/upscale_models").json() == ["b.pth", "deep/er/a.safetensors"]


def test_a_packs_nodes_routes_and_scripts_are_there(engine: Engine) -> None:
    assert engine.get("/pack/hello").json()["output"] == str(engine.output)
    assert engine.get("/api/pack/hello").ok
    assert "/extensions/a-pack/pack.js" in engine.get("/extensions").json()
    assert engine.get("/extensions/a-pack/pack.js").text == "// hello"
    info = engine.get("/object_info/Shout").json()["Shout"]
    assert (info["display_name"], info["python_module"]) == ("Shout it", "custom_nodes.a-pack")


def test_a_packs_node_runs_validates_and_is_never_cached(engine: Engine) -> None:
    prompt = {"1": node("Shout", text="hey")}
    outputs = [engine.run(prompt) for _ in range(2)]
    assert [run.history["outputs"]["1"] for run in outputs] == [{"text": ["HEY1"]}] * 2
    assert [executed_nodes(run) for run in outputs] == [["1"], ["1"]]
    refused = engine.run({"1": node("Shout", text="")}).response
    assert refused.json()["node_errors"]["1"]["errors"][0]["details"] == "text - say something"


def test_a_packs_list_is_one_call_for_each_element(engine: Engine) -> None:
    run = engine.run({"1": node("Spread", count=3), "2": node("Shout", text=["1", 0])})
    assert run.history["outputs"]["2"] == {"text": ["002", "112", "222"]}


def test_a_packs_asynchronous_node_runs(engine: Engine) -> None:
    assert engine.run({"1": node("Later", text="soon")}).history["outputs"]["1"] == {"text": ["soon"]}


def test_a_pack_that_fails_is_logged_and_left_out(engine: Engine) -> None:
    assert "not today" in engine.log_text()
    assert "(IMPORT FAILED)" in engine.log_text()


def test_the_page_says_what_this_is_and_settings_are_kept(engine: Engine) -> None:
    assert engine.get("/").ok
    engine.post("/settings", json={"a": 1})
    engine.post("/settings/b", json=2)
    assert engine.get("/settings").json() == {"a": 1, "b": 2}
    engine.post("/userdata/workflows%2Fmine.json", data="{}")
    assert engine.get("/userdata?dir=workflows").json() == ["mine.json"]
    assert engine.get("/userdata/workflows%2Fmine.json").text == "{}"
    assert engine.post("/userdata/..%2F..%2Fout.json", data="{}").status_code == 403


def test_without_the_cors_flag_a_page_from_elsewhere_is_refused() -> None:
    with Engine(cors=False) as engine:
        assert engine.get("/prompt", headers={"Origin": "http://elsewhere.example"}).status_code == 403
        assert engine.get("/prompt", headers={"Origin": engine.url}).status_code == 200


def test_it_says_in_its_log_what_it_is_and_which_flags_it_ignores() -> None:
    with Engine("--highvram", "--use-sage-attention") as engine:
        text = engine.log_text()
    assert "This is the simulator, not ComfyUI" in text
    assert "The simulator ignores: --highvram --use-sage-attention" in text
    assert f"To see the GUI go to: {engine.url}" in text
