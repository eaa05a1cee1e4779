"""Everything in and out of the assembled worker, by the nodes people use: on the simulator, and on a real ComfyUI where
COMFYUI_PATH names one, which alone has video and sound."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import struct
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.live_worker import LiveWorker
from tests.support.runner_bench import node
from tests.support.saved_texts import carried, decoded, latent_header

CHECKOUT = os.environ.get("COMFYUI_PATH")
REAL = pytest.mark.skipif(
    not CHECKOUT, reason="video and sound are a real ComfyUI's: COMFYUI_PATH=... make test-comfyui"
)

PACK = '''
import json, os
import folder_paths

class Costly:
    """Leaves a line wherever it runs."""
    CATEGORY, FUNCTION, RETURN_TYPES = "pack", "run", ("STRING",)
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}
    def run(self, text):
        with open(os.path.join(folder_paths.base_path, "costly.txt"), "a") as file:
            file.write(text + "\\n")
        return (text,)

class SaveNote:
    """A format nobody knows, which carries the prompt and the workflow."""
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "pack", "save", (), True
    @classmethod
    def INPUT_TYPES(cls):
        hidden = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
        return {"required": {"text": ("STRING", {"forceInput": True})}, "hidden": hidden}
    def save(self, text, prompt=None, extra_pnginfo=None):
        output = folder_paths.get_output_directory()
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path("note", output)
        file = f"{name}_{number:05}_.note"
        with open(os.path.join(folder, file), "w") as out:
            json.dump({"prompt": prompt, **(extra_pnginfo or {})}, out)
        return {"ui": {"notes": [{"filename": file, "subfolder": subfolder, "type": "output"}]}}

class _All(dict):
    def __contains__(self, key):
        return True
    def __getitem__(self, key):
        return super().get(key, ("STRING", {}))

class SaveNoteStrictly(SaveNote):
    """Takes any input that it is sent, as some packs' nodes do, and dislikes this one."""
    @classmethod
    def INPUT_TYPES(cls):
        types = super().INPUT_TYPES()
        return {**types, "optional": _All()}
    def save(self, text, prompt=None, extra_pnginfo=None, **others):
        if others:
            raise ValueError(f"what is {others}?")
        return super().save(text, prompt, extra_pnginfo)

class Expands(SaveNote):
    """Becomes another node that saves."""
    def save(self, text, prompt=None, extra_pnginfo=None):
        from comfy_execution.graph_utils import GraphBuilder
        graph = GraphBuilder()
        graph.node("SaveNote", text=text)
        return {"result": (), "expand": graph.finalize()}

NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in (Costly, SaveNote, SaveNoteStrictly, Expands)}
'''


@pytest.fixture(
    scope="module",
    params=["simulator", *([pytest.param("comfyui", marks=pytest.mark.real_comfyui)] if CHECKOUT else [])],
)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveWorker]:
    base = tmp_path_factory.mktemp("comfyui")
    pack = base / "custom_nodes" / "pack"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(PACK)
    checkout = Path(CHECKOUT).resolve() if CHECKOUT and request.param == "comfyui" else None
    with LiveWorker(base, checkout) as worker:
        yield worker


@pytest.fixture
def real(live: LiveWorker) -> LiveWorker:
    if not live.real:
        pytest.skip("the simulator has no video and no sound")
    return live


# ---------------------------------------------------------------------- what is sent


def moving(**save: Any) -> dict[str, Any]:
    """Three frames of two colours, and a node that saves them."""
    return {
        "1": node("EmptyImage", width=64, height=64, batch_size=2, color=0xFF0000),
        "2": node("EmptyImage", width=64, height=64, batch_size=1, color=0x0000FF),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "9": node(**save),
    }


def tone(seconds: float = 0.5, rate: int = 24000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        samples = (int(9000 * math.sin(i * 0.2)) for i in range(int(seconds * rate)))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return out.getvalue()


def sent(name: str, data: bytes) -> dict[str, str]:
    return {"name": name, "b64": base64.b64encode(data).decode()}


SOUND = {"1": node("LoadAudio", audio="tone.wav")}
VIDEO = {"4": node("CreateVideo", images=["3", 0], fps=8.0)}
STILLS = {
    "webp": moving(
        class_type="SaveAnimatedWEBP", images=["3", 0], filename_prefix="moving/a", fps=6.0, lossless=True, quality=80,
        method="default",
    ),
    "png": moving(
        class_type="SaveAnimatedPNG", images=["3", 0], filename_prefix="moving/a", fps=6.0, compress_level=4
    ),
    "latent": {
        "1": node("EmptyLatentImage", width=64, height=32, batch_size=1),
        "9": node("SaveLatent", samples=["1", 0], filename_prefix="latents/a"),
    },
    "note": {"1": node("Costly", text="a"), "9": node("SaveNote", text=["1", 0])},
}  # fmt: skip
STREAMS = {
    "mp4": {
        **moving(class_type="SaveVideo", video=["4", 0], filename_prefix="video/a", format="auto", codec="auto"),
        **VIDEO,
    },
    "webm": moving(class_type="SaveWEBM", images=["3", 0], filename_prefix="a", codec="vp9", fps=8.0, crf=32.0),
    "flac": {**SOUND, "9": node("SaveAudio", audio=["1", 0], filename_prefix="audio/a")},
    "mp3": {**SOUND, "9": node("SaveAudioMP3", audio=["1", 0], filename_prefix="audio/a", quality="128k")},
    "opus": {**SOUND, "9": node("SaveAudioOpus", audio=["1", 0], filename_prefix="audio/a", quality="64k")},
}
KINDS = {
    "webp": "image/webp", "png": "image/png", "latent": "application/octet-stream", "note": "application/octet-stream",
    "mp4": "video/mp4", "webm": "video/webm", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg",
}  # fmt: skip
EVERY = [*STILLS, *(pytest.param(kind, marks=REAL) for kind in STREAMS)]


def job(kind: str, workflow: Any = None) -> dict[str, Any]:
    extra = {} if workflow is None else {"extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    files = {"files": [sent("tone.wav", tone())]} if "tone.wav" in json.dumps(STREAMS.get(kind)) else {}
    return {"prompt": {**STILLS, **STREAMS}[kind], **files, **extra}


def only(answer: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    (entry,) = [*answer["images"], *answer["files"]]
    data = base64.b64decode(entry["b64"])
    assert len(data) == entry["bytes"]
    return entry, data


def ask(live: LiveWorker, kind: str) -> LiveWorker:
    if kind in STREAMS and not live.real:
        pytest.skip("the simulator has no video and no sound")
    return live


def texts(live: LiveWorker, entry: dict[str, Any], data: bytes) -> dict[str, Any]:
    return json.loads(data) if entry["filename"].endswith(".note") else carried(data, entry["filename"], live.python)


# ---------------------------------------------------------------------- out


@pytest.mark.parametrize("kind", EVERY)
def test_what_a_node_saves_comes_back_opens_and_carries_the_jobs_workflow(live, kind):
    entry, data = only(ask(live, kind).run(**job(kind, {"first": kind})))
    assert entry["filename"].endswith(f".{kind}")
    assert (entry["media_type"], entry["node_id"], entry["type"]) == (KINDS[kind], "9", "output")
    assert texts(live, entry, data)["workflow"] == {"first": kind}
    assert texts(live, entry, data)["prompt"]["9"]["class_type"] == job(kind)["prompt"]["9"]["class_type"]
    if kind in ("mp4", "webm"):
        assert decoded(data, entry["filename"], live.python) == {"video": 3}
    elif kind in STREAMS:
        assert decoded(data, entry["filename"], live.python)["audio"] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("kind", EVERY)
def test_a_cached_file_carries_this_jobs_workflow_and_nothing_of_an_earlier_callers(live, kind):
    ask(live, kind).run(**job(kind, {"of": "caller-one"}))
    entry, data = only(live.run(**job(kind, {"of": "caller-two"})))
    assert texts(live, entry, data)["workflow"] == {"of": "caller-two"}
    assert b"caller-one" not in data
    again, same = only(live.run(**job(kind, {"of": "caller-two"})))
    assert texts(live, again, same)["workflow"] == {"of": "caller-two"}
    _, bare = only(live.run(**job(kind)))
    assert "workflow" not in texts(live, entry, bare)
    assert b"caller-two" not in bare


# ---------------------------------------------------------------------- what makes it so


def runs_of_costly(live: LiveWorker) -> int:
    path = live.base / "costly.txt"
    return path.read_text().count("\n") if path.exists() else 0


def test_only_the_saving_node_runs_anew_and_only_when_the_workflow_is_another(live):
    def note(workflow: str) -> dict[str, Any]:
        prompt = {"1": node("Costly", text="only once"), "9": node("SaveNote", text=["1", 0])}
        return {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}

    before = runs_of_costly(live)
    first, _ = only(live.run(**note("one")))
    assert only(live.run(**note("one")))[0]["filename"] == first["filename"]
    second, _ = only(live.run(**note("two")))
    assert second["filename"] != first["filename"]
    assert only(live.run(**note("two")))[0]["filename"] != first["filename"]
    assert runs_of_costly(live) == before + 1


def test_a_node_that_takes_no_further_input_runs_anew_with_all_it_needs(live):
    prompt = {"1": node("Costly", text="strict"), "9": node("SaveNoteStrictly", text=["1", 0])}
    for workflow in ("one", "two"):
        _, data = only(live.run(prompt=prompt, extra_data={"extra_pnginfo": {"workflow": workflow}}))
        assert json.loads(data) == {"prompt": prompt, "workflow": workflow}


def test_what_a_cancelled_or_failed_job_saved_is_not_the_next_callers(live):
    prompt = {
        "1": node("Costly", text="fails later"),
        "9": node("SaveNote", text=["1", 0]),
        "a": node("SaveNoteStrictly", text=["1", 0], unknown="makes it fail"),
    }
    error = live.fail(prompt=prompt, extra_data={"extra_pnginfo": {"workflow": "of the one that failed"}})
    assert error["error_code"] == "NODE_FAILED"
    del prompt["a"]
    _, data = only(live.run(prompt=prompt, extra_data={"extra_pnginfo": {"workflow": "mine"}}))
    assert json.loads(data)["workflow"] == "mine"
    assert "a" not in json.loads(data)["prompt"]


@REAL
def test_what_a_node_saves_that_another_expanded_into_is_never_an_earlier_callers(real):
    prompt = {"1": node("Costly", text="expands"), "9": node("Expands", text=["1", 0])}
    for workflow in ("one", "two", "two"):
        entry, data = only(real.run(prompt=prompt, extra_data={"extra_pnginfo": {"workflow": workflow}}))
        assert entry["node_id"] not in prompt
        assert json.loads(data)["workflow"] == workflow


# ---------------------------------------------------------------------- in


def picture(alpha: bool = False) -> bytes:
    """Red; the left half transparent, as the mask editor leaves what was painted."""
    image, out = Image.new("RGBA" if alpha else "RGB", (64, 32), "red"), io.BytesIO()
    if alpha:
        image.paste((255, 0, 0, 0), (0, 0, 32, 32))
    image.save(out, "PNG")
    return out.getvalue()


def pixels(entry: dict[str, Any]) -> list[tuple[int, int, int]]:
    """The colours in the middle of the left and of the right half."""
    with Image.open(io.BytesIO(base64.b64decode(entry["b64"]))) as image:
        found = image.convert("RGB")
    return [found.getpixel((found.width // 4, found.height // 2)), found.getpixel((found.width * 3 // 4, 4))]


@pytest.mark.parametrize("name", ["masked.png", "clipspace/clipspace-painted-masked-1732473612345.png"])
@pytest.mark.parametrize("annotation", ["", " [input]"])
def test_a_picture_and_the_mask_painted_on_it_arrive_whatever_the_loader_calls_them(live, name, annotation):
    prompt = {
        "1": node("LoadImage", image=name + annotation),
        "2": node("LoadImageMask", image=name + annotation, channel="alpha"),
        "3": node("MaskToImage", mask=["1", 1]),
        "4": node("MaskToImage", mask=["2", 0]),
        **{str(n): node("SaveImage", images=[source, 0], filename_prefix="in") for n, source in enumerate("134", 10)},
    }
    answer = live.run(prompt=prompt, files=[sent(name, picture(alpha=True))])
    shown, mask, same_mask = answer["images"]
    assert pixels(shown) == [(255, 0, 0)] * 2
    assert pixels(mask) == pixels(same_mask) == [(255, 255, 255), (0, 0, 0)]


def test_a_saved_latent_is_loaded_again(live):
    _, latent = only(live.run(**job("latent")))
    again = {
        "1": node("LoadLatent", latent="mine.latent"),
        "9": node("SaveLatent", samples=["1", 0], filename_prefix="latents/again"),
    }
    _, data = only(live.run(prompt=again, files=[sent("mine.latent", latent)]))
    tensors = [{k: v for k, v in latent_header(each).items() if k != "__metadata__"} for each in (latent, data)]
    assert tensors[0] == tensors[1]
    assert tensors[0]["latent_tensor"]["shape"] == [1, 4, 4, 8]


@REAL
@pytest.mark.parametrize("name", ["clip.mp4", "clips/of a holiday/clip.mp4"])
def test_a_video_arrives_and_comes_back_with_its_frames_and_this_jobs_workflow(real, name):
    _, video = only(real.run(**job("mp4", "where it was made")))
    prompt = {
        "1": node("LoadVideo", file=name),
        "2": node("SaveVideo", video=["1", 0], filename_prefix="again", format="auto", codec="auto"),
    }
    extra = {"extra_pnginfo": {"workflow": {"here": 1}}}
    entry, data = only(real.run(prompt=prompt, files=[sent(name, video)], extra_data=extra))
    assert decoded(data, entry["filename"], real.python) == {"video": 3}
    found = texts(real, entry, data)
    del found["prompt"]["1"]["is_changed"]  # ComfyUI's own note
    assert found == {"prompt": prompt, "workflow": {"here": 1}}


@REAL
def test_a_sound_arrives_and_can_become_a_videos(real):
    prompt = {
        **moving(class_type="SaveVideo", video=["4", 0], filename_prefix="heard", format="auto", codec="auto"),
        "4": node("CreateVideo", images=["3", 0], fps=8.0, audio=["5", 0]),
        "5": node("LoadAudio", audio="sounds/tone.wav [input]"),
    }
    entry, data = only(real.run(prompt=prompt, files=[sent("sounds/tone.wav", tone())]))
    found = decoded(data, entry["filename"], real.python)
    assert found["video"] == 3
    assert found["audio"] == pytest.approx(3 / 8, abs=0.1)
