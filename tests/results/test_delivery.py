"""A prompt's files become entries of the answer: repaired, converted, named, inline or as links."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.support.prompts import image_prompt
from tests.support.webp_files import as_the_frontend_reads, odd_webp
from worker.errors import Code, WorkerError
from worker.job import parse_job
from worker.results import delivery as module
from worker.results.delivery import Delivery, DeliveryOptions, RenderedFrom
from worker.results.outputs import TEXT, Output, OutputFile
from worker.results.png_text import read_texts
from worker.settings import Settings
from worker.stop import Stop, StoppedError

PROMPT = image_prompt()
BUCKET = {
    "BUCKET_ENDPOINT_URL": "https://pics.s3.eu-west-1.amazonaws.com",
    "BUCKET_ACCESS_KEY_ID": "key",
    "BUCKET_SECRET_ACCESS_KEY": "secret",
}


def options_of(fields: dict[str, Any] | None = None, **env: str) -> DeliveryOptions:
    job = parse_job({"id": "job1", "input": {"prompt": PROMPT, **(fields or {})}}, 60)
    return DeliveryOptions.of(job, Settings.from_environ(env))


def file(data: bytes, filename: str = "a.png", node_id: str = "2", subfolder: str = "") -> OutputFile:
    return OutputFile(Output(node_id, filename, subfolder, "output"), data=data)


def png(texts: dict[str, Any] | None = None, size: int = 8) -> bytes:
    info, out = PngInfo(), io.BytesIO()
    for name, value in (texts or {}).items():
        info.add_text(name, json.dumps(value))
    Image.effect_noise((size, size), 90).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def deliver(*files: OutputFile, rendered_from: RenderedFrom | None = None, **fields: Any) -> Delivery:
    """Deliver files inline, with their bytes under ``data`` instead of base64."""
    delivery = Delivery(options_of(fields), rendered_from or RenderedFrom("job1", PROMPT), files, Stop())
    delivery.answer(lambda: {**delivery.entries_by_kind(), "warnings": delivery.warnings})
    for entry in delivery.entries:
        entry["data"] = base64.b64decode(entry.pop("b64"))
        assert entry["bytes"] == len(entry["data"])
    return delivery


def test_an_original_webp_is_repaired_so_that_the_frontend_finds_its_workflow(tmp_path):
    webp = odd_webp(PROMPT)
    assert as_the_frontend_reads(webp) == {}
    path = tmp_path / "a.webp"
    path.write_bytes(webp)
    on_disk = OutputFile(Output("2", "b.webp", "", "output"), path)
    for entry in deliver(file(webp, "a.webp"), on_disk).entries:
        assert json.loads(as_the_frontend_reads(entry["data"])["prompt"]) == PROMPT
        assert entry["media_type"] == "image/webp"
        with Image.open(io.BytesIO(webp)) as before, Image.open(io.BytesIO(entry["data"])) as after:
            assert before.tobytes() == after.tobytes()


def test_a_webp_too_large_to_be_read_for_its_workflow_is_delivered_as_it_is(monkeypatch):
    webp = odd_webp(PROMPT)
    monkeypatch.setattr(module, "MAX_REPAIRED_BYTES", len(webp) - 1)
    assert deliver(file(webp, "a.webp")).entries[0]["data"] == webp


def test_only_a_png_from_the_cache_gets_this_jobs_texts():
    data = png({"prompt": {"1": {}}, "workflow": "another caller's"})
    own = RenderedFrom("job1", PROMPT, {"workflow": "this caller's"}, cached=frozenset({"9"}))
    cached, fresh = deliver(file(data, node_id="9"), file(data), rendered_from=own).entries
    found = {name: json.loads(text) for name, text in read_texts(cached["data"]).items()}
    assert found == {"prompt": PROMPT, "workflow": "this caller's"}
    assert fresh["data"] == data


def test_a_text_that_no_png_can_hold_is_left_out_and_the_other_callers_are_gone():
    own = RenderedFrom("job1", PROMPT, {"x" * 80: 1}, cached=frozenset({"2"}))
    (entry,) = deliver(file(png({"prompt": {"1": {}}, "workflow": "theirs"})), rendered_from=own).entries
    assert read_texts(entry["data"]) == {}


def test_a_broken_png_from_the_cache_is_delivered_as_it_is():
    own, cut = RenderedFrom("job1", PROMPT, cached=frozenset({"2"})), png({"prompt": {}})[:-9]
    assert deliver(file(cut), rendered_from=own).entries[0]["data"] == cut


def test_a_cached_png_that_is_converted_carries_this_jobs_workflow():
    own = RenderedFrom("job1", PROMPT, {"workflow": "mine"}, cached=frozenset({"2"}))
    data = png({"prompt": {"1": {}}, "workflow": "theirs"})
    (entry,) = deliver(file(data), rendered_from=own, result={"format": "webp"}).entries
    assert (entry["filename"], entry["media_type"]) == ("a.webp", "image/webp")
    assert json.loads(as_the_frontend_reads(entry["data"])["workflow"]) == "mine"


def test_an_image_that_cannot_be_converted_is_delivered_as_it_is_with_the_reason():
    out = io.BytesIO()
    Image.new("I;16", (4, 4)).save(out, "PNG")
    delivery = deliver(file(out.getvalue()), file(b"no image", "b.png"), result={"format": "webp"})
    assert [entry["data"] for entry in delivery.entries] == [out.getvalue(), b"no image"]
    assert delivery.warnings == ["a.png was left as it is: it has more than 8 bits a channel."]


def test_files_get_names_of_their_own_also_after_conversion():
    delivery = deliver(
        file(png()), file(png(), "a.bmp"), file(b"x", "a.webp", subfolder="s"), result={"format": "webp"}
    )
    assert [entry["filename"] for entry in delivery.entries] == ["a.webp", "a (2).webp", "a (3).webp"]


def test_images_and_other_files_are_told_apart_and_a_text_is_readable_as_it_is():
    text = OutputFile(Output("3", "node_3_00001_.txt", "", TEXT, "hello"), data=b"hello")
    kinds = deliver(file(png()), file(b"\0\0\0\x20ftypisom", "b.mp4"), text).entries_by_kind()
    assert [entry["filename"] for entry in kinds["images"]] == ["a.png"]
    assert [(entry["media_type"], entry.get("text")) for entry in kinds["files"]] == [
        ("video/mp4", None),
        ("text/plain", "hello"),
    ]


def test_a_graph_that_breaks_the_metadata_does_not_break_the_job(monkeypatch):
    def broken(*args):
        raise ZeroDivisionError

    assert deliver(file(png()), metadata=True).entries[0]["metadata"]["width"] == 8
    monkeypatch.setattr(module, "generation_info", broken)
    delivery = deliver(file(png()), metadata=True)
    assert "metadata" not in delivery.entries[0]
    assert delivery.warnings == ["The metadata of a.png could not be read from the prompt."]


def test_a_file_that_is_gone_fails_the_job_with_its_name(tmp_path):
    gone = OutputFile(Output("2", "a.png", "", "output"), tmp_path / "a.png")
    with pytest.raises(WorkerError, match=r"INTERNAL: a\.png could not be read any more"):
        deliver(gone, result={"format": "webp"})


@pytest.mark.parametrize(
    ("env", "fields", "hint"),
    [
        ({}, {}, "configure a bucket"),
        (BUCKET, {"result": {"to": "base64"}}, 'Ask for "result": {"format": "webp"}'),
        (BUCKET, {"result": {"to": "base64", "format": "webp"}}, 'Ask for "result": {"to": "auto"}'),
    ],
)
def test_an_answer_too_large_is_refused_with_the_ways_out(env, fields, hint):
    options = options_of(fields, RESULT_LIMIT_MB="0.01", **env)
    delivery = Delivery(options, RenderedFrom("job1", PROMPT), [file(png(size=200))] * 2, Stop())
    with pytest.raises(WorkerError, match="RESULT_TOO_LARGE") as caught:
        delivery.answer(delivery.entries_by_kind)
    assert hint in str(caught.value.hint)
    sizes = caught.value.details.get("bytes_by_format")
    assert (sizes is None) == ("format" in fields.get("result", {}))
    assert sizes is None or 0 < sizes["jpeg"] < caught.value.details["bytes"]


def test_a_stopped_job_delivers_nothing():
    stop = Stop()
    stop.set()
    delivery = Delivery(options_of(), RenderedFrom("job1", PROMPT), [file(png())], stop)
    with pytest.raises(StoppedError):
        delivery.answer(delivery.entries_by_kind)


def test_a_cancelled_delivery_has_ended_before_the_cancellation_is_passed_on():
    async def scenario() -> list[str]:
        events, loop = [], asyncio.get_running_loop()
        converting, stop = asyncio.Event(), Stop()

        class Slow(OutputFile):
            def head(self) -> bytes:
                loop.call_soon_threadsafe(converting.set)
                try:
                    stop.sleep(20)
                finally:
                    events.append(f"stopped: {stop.is_set()}")
                return b""

        delivery = Delivery(options_of(), RenderedFrom("job1", PROMPT), [Slow(file(b"").output, data=b"")], stop)
        task = asyncio.create_task(delivery.in_thread(delivery.entries_by_kind))
        await converting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [*events, "cancelled"]

    assert asyncio.run(scenario()) == ["stopped: True", "cancelled"]


def test_the_jobs_options_override_the_settings():
    env = {"RESULT_TO": "base64", "RESULT_FORMAT": "jpeg", "RESULT_QUALITY": "70", "RESULT_LIMIT_MB": "5"}
    by_settings = options_of({}, **env)
    assert (by_settings.to, by_settings.format, by_settings.quality, by_settings.limit_mb) == ("base64", "jpeg", 70, 5)
    by_job = options_of({"result": {"to": "auto", "format": "webp", "quality": 9}, "metadata": True}, **env)
    assert (by_job.to, by_job.format, by_job.quality, by_job.metadata) == ("auto", "webp", 9, True)


def test_links_without_a_bucket_are_an_invalid_input():
    with pytest.raises(WorkerError) as caught:
        options_of({"result": {"to": "s3"}})
    assert caught.value.code is Code.INVALID_INPUT
    assert caught.value.details == {"field": "result.to"}
    assert options_of({"result": {"to": "s3"}}, **BUCKET).bucket is not None


def test_a_job_of_the_official_workers_shape_gets_links_where_there_is_a_bucket():
    job = parse_job({"id": "job1", "input": {"workflow": PROMPT}}, 60)
    assert DeliveryOptions.of(job, Settings.from_environ(BUCKET)).to == "s3"
    assert DeliveryOptions.of(job, Settings.from_environ({})).to == "auto"
