"""Through the whole worker: big results by link or converted, metadata, cached PNGs, inputs, as a caller sees them."""

from __future__ import annotations

import base64
import io
import json
import os

import pytest
import requests
from PIL import Image

from tests.support.prompts import image_prompt, node, sampler_prompt
from tests.support.worker_bench import on_worker
from worker.results.png_text import read_texts

SIDE = 1800  # noise of this size is a PNG of 9.7 MB


def noise(side: int, kind: str = "PNG") -> str:
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(out, kind, compress_level=1)
    return base64.b64encode(out.getvalue()).decode()


def get(url: str) -> bytes:
    """What a caller finds behind a link."""
    return requests.get(url, timeout=30).content


@pytest.fixture(scope="module")
def big_job() -> dict:
    """A prompt that saves four pictures, 40 MB together, from one input."""
    load = {"1": node("LoadImage", image="noise.png")}
    invert = {str(n): node("ImageInvert", image=[str(n - 1) if n > 2 else "1", 0]) for n in range(2, 5)}
    save = {f"1{n}": node("SaveImage", images=[str(n), 0], filename_prefix=f"big/{n}") for n in range(1, 5)}
    return {"prompt": {**load, **invert, **save}, "files": [{"name": "noise.png", "b64": noise(SIDE)}]}


def test_40_mb_of_pngs_go_by_link_when_there_is_a_bucket(tmp_path, big_job, s3):
    async def scenario(bench):
        answer = await bench.run(**big_job)
        assert len(answer["images"]) == 4
        assert sum(entry["bytes"] for entry in answer["images"]) > 38e6
        for entry in answer["images"]:
            assert "b64" not in entry
            assert entry["expires_s"] == 7 * 24 * 3600
            data = get(entry["url"])
            assert len(data) == entry["bytes"]
            assert read_texts(data)["prompt"]
        assert sorted(s3.keys()) == [f"out/test/big/{n}_00001_.png" for n in range(1, 5)]

    on_worker(tmp_path, None, scenario, **s3.env(BUCKET_PREFIX="out"))


def test_without_a_bucket_40_mb_are_an_error_with_numbers(tmp_path, big_job):
    async def scenario(bench):
        error = await bench.fail(**big_job)
        assert error["error"].startswith("RESULT_TOO_LARGE: the answer would be 5")
        assert "9.5 MB can be returned" in error["error"]
        assert "MB as webp and" in error["error"]
        assert "BUCKET_ENDPOINT_URL" in error["error"]
        assert set(error["details"]["bytes_by_format"]) == {"webp", "jpeg"}
        assert error["details"]["bytes"] > 50e6

    on_worker(tmp_path, None, scenario)


def test_as_webp_40_mb_fit_and_open_with_their_workflow(tmp_path, big_job):
    async def scenario(bench):
        extra = {"extra_pnginfo": {"workflow": {"nodes": ["mine"]}}}
        answer = await bench.run(**big_job, extra_data=extra, result={"format": "webp", "quality": 30})
        assert [entry["filename"] for entry in answer["images"]] == [f"{n}_00001_.webp" for n in range(1, 5)]
        for entry in answer["images"]:
            with Image.open(io.BytesIO(base64.b64decode(entry["b64"]))) as image:
                image.load()
                assert image.size == (SIDE, SIDE)
                assert image.getexif()[0x010F] == f"workflow:{json.dumps(extra['extra_pnginfo']['workflow'])}"

    on_worker(tmp_path, None, scenario)


def test_a_small_answer_stays_inline_though_there_is_a_bucket_and_goes_there_when_asked(tmp_path, s3):
    async def scenario(bench):
        assert "b64" in (await bench.run(prompt=image_prompt()))["images"][0]
        linked = (await bench.run(prompt=image_prompt(), result={"to": "s3"}))["images"][0]
        assert get(linked["url"]).startswith(b"\x89PNG")
        official = await bench.run(workflow=image_prompt())
        assert official["images"][0]["type"] == "s3_url"
        assert get(official["images"][0]["data"]).startswith(b"\x89PNG")

    on_worker(tmp_path, None, scenario, **s3.env())


def test_a_jobs_own_bucket_is_used_and_stands_in_no_log(tmp_path, s3, caplog):
    host = s3.url.removeprefix("http://")

    async def scenario(bench):
        event = {"id": "mine", "input": {"prompt": image_prompt()}, "s3Config": s3.s3_config()}
        answer = await bench.worker.handle(event)
        assert get(answer["images"][0]["url"]).startswith(b"\x89PNG")
        assert s3.keys() == ["mine/test_00001_.png"]
        bad = await bench.worker.handle({**event, "s3Config": s3.s3_config(endpointUrl="http://10.0.0.1")})
        assert bad["error_code"] == "INVALID_INPUT"
        assert (await bench.fail(prompt=image_prompt(), result={"to": "s3"}))["details"]["field"] == "result.to"

    on_worker(tmp_path, None, scenario, PRIVATE_HOSTS=host)
    assert s3.secret not in caplog.text


def test_a_failed_upload_loses_nothing_a_repeated_job_gets_the_same_files(tmp_path, s3):
    async def scenario(bench):
        s3.check_signatures()
        address = bench.worker.settings.bucket
        assert address is not None
        object.__setattr__(bench.worker.settings, "bucket_secret_access_key", "test-wrong")
        job = {"prompt": image_prompt(7), "result": {"to": "s3"}}
        error = await bench.fail(**job)
        assert error["error_code"] == "UPLOAD_FAILED"
        assert "test-wrong" not in json.dumps(error)
        object.__setattr__(bench.worker.settings, "bucket_secret_access_key", s3.secret)
        answer = await bench.run(**job)
        assert answer["images"][0]["filename"] == "test_00001_.png"  # not rendered anew: it would be 00002
        assert s3.keys() == ["test/test_00001_.png"]

    on_worker(tmp_path, None, scenario, **s3.env())


def test_metadata_comes_beside_each_image(tmp_path, safetensors_checkpoint):
    async def scenario(bench):
        answer = await bench.run(prompt=sampler_prompt(safetensors_checkpoint, steps=2), metadata=True)
        entry = answer["images"][0]
        assert entry["parameters"].startswith("a cat\nNegative prompt: bad\nSteps: 2, Sampler: Euler, CFG scale: 1.0")
        assert "Size: 64x64" in entry["parameters"]
        assert (entry["metadata"]["seed"], entry["metadata"]["models"][0]["name"]) == (1, "tiny.safetensors")
        assert set(entry["metadata"]["versions"]) == {"worker", "comfyui"}

    on_worker(tmp_path, None, scenario)


def test_a_cached_png_carries_this_jobs_workflow_and_not_the_earlier_callers(tmp_path):
    async def scenario(bench):
        first, second = ({"extra_pnginfo": {"workflow": {"of": who}, who: 1}} for who in ("one", "two"))
        for extra in (first, second):
            entry = (await bench.run(prompt=image_prompt(3), extra_data=extra))["images"][0]
            texts = read_texts(base64.b64decode(entry["b64"]))
            assert {name: json.loads(text) for name, text in texts.items()} == {
                "prompt": image_prompt(3),
                **extra["extra_pnginfo"],
            }
            assert entry["filename"] == "test_00001_.png"
        plain = (await bench.run(prompt=image_prompt(3)))["images"][0]
        assert set(read_texts(base64.b64decode(plain["b64"]))) == {"prompt"}

    on_worker(tmp_path, None, scenario)


def test_files_of_one_name_from_two_nodes_are_told_apart(tmp_path):
    prompt = image_prompt(1, "a/pic")
    prompt["3"] = node("SaveImage", images=["1", 0], filename_prefix="b/pic")

    async def scenario(bench):
        images = (await bench.run(prompt=prompt))["images"]
        assert [(entry["subfolder"], entry["filename"]) for entry in images] == [
            ("a", "pic_00001_.png"),
            ("b", "pic_00001_ (2).png"),
        ]

    on_worker(tmp_path, None, scenario)


def test_an_input_under_anothers_name_is_read_as_the_jobs_own(tmp_path):
    (tmp_path / "input").mkdir()
    theirs = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(theirs, "PNG")
    (tmp_path / "input" / "example.png").write_bytes(theirs.getvalue())
    ours = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(ours, "PNG")
    files = [{"name": "example.png", "b64": base64.b64encode(ours.getvalue()).decode()}]
    prompt = {"1": node("LoadImage", image="example.png"), "2": node("SaveImage", images=["1", 0], filename_prefix="x")}

    async def scenario(bench):
        answer = await bench.run(prompt=prompt, files=files)
        with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]["b64"]))) as image:
            assert image.getpixel((1, 1)) == (255, 0, 0)
        assert "example.png" in answer["warnings"][0]
        assert (tmp_path / "input" / "example.png").read_bytes() == theirs.getvalue()

    on_worker(tmp_path, None, scenario)


def test_an_input_by_a_private_link_is_refused_before_anything_runs(tmp_path):
    async def scenario(bench):
        files = [{"name": "a.png", "url": "https://169.254.169.254/latest/meta-data/a.png"}]
        prompt = {"1": node("LoadImage", image="a.png"), "2": node("SaveImage", images=["1", 0], filename_prefix="x")}
        error = await bench.fail(prompt=prompt, files=files)
        assert error["error_code"] == "INVALID_INPUT"
        assert error["details"]["field"] == "files[0].url"

    on_worker(tmp_path, None, scenario)
