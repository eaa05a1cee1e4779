"""Results through the SDK's own sending code to a server on loopback: the same bytes, without the memory."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import tracemalloc
from types import ModuleType

import pytest
from aiohttp import ClientSession, web
from runpod.serverless.modules import rp_http

from tests.support.waiting import end_server
from worker.results.delivery import Delivery, DeliveryOptions, RenderedFrom
from worker.results.outputs import Output, OutputFile
from worker.runpod_sdk.streamed_results import LARGE_CHARS, json_pieces, stream_large_results, without_debug_dump
from worker.stop import Stop

LARGE = base64.b64encode(os.urandom(LARGE_CHARS)).decode()
ANSWERS = {
    "small": {"output": {"images": [], "warnings": ['ü \\ud83d\\ude00 "quoted" \\ \n']}},
    "large": {"output": {"images": [{"b64": LARGE, "bytes": 1}, {"b64": LARGE + "A"}], "files": [], "ü": LARGE}},
    "to be escaped": {"output": {"text": 'a "quoted" line\n' * (LARGE_CHARS // 8), "ü": "ü" * LARGE_CHARS}},
    "a plain string": {"output": LARGE},
    "odd keys": {"output": {1: LARGE, None: [LARGE, (LARGE, 2.5, True)]}},
    "an error": {"error": "NO_OUTPUT: nothing.", "output": {"error_code": "NO_OUTPUT", "details": {}}},
}


@pytest.fixture
def patched(monkeypatch):
    monkeypatch.setattr(rp_http, "json", json)
    assert stream_large_results()


def send(answer: dict, statuses: tuple[int, ...] = (200,), keep: bool = True) -> list[tuple[dict, bytes, int]]:
    """Have the SDK post an answer; each request's headers, body and length as the server got it."""
    got, left = [], list(statuses)

    async def take(request: web.Request) -> web.Response:
        body, length = b"", 0
        async for piece in request.content.iter_any():
            body, length = body + piece if keep else b"", length + len(piece)
        got.append((dict(request.headers), body, length))
        return web.Response(status=left.pop(0) if left else 200)

    async def whole() -> None:
        app = web.Application()
        app.router.add_post("/done/{job}", take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        template = f"http://127.0.0.1:{runner.addresses[0][1]}/done/$ID?gpu=x"
        try:
            async with ClientSession() as session:
                await rp_http._handle_result(session, answer, {"id": "job1"}, template, "Results sent.")
        finally:
            await end_server(runner)

    asyncio.run(whole())
    return got


@pytest.mark.parametrize("name", ANSWERS)
def test_the_server_gets_what_the_sdk_alone_would_have_sent(monkeypatch, name):
    monkeypatch.setattr(rp_http, "json", json)
    (alone,) = send(ANSWERS[name])
    assert stream_large_results()
    (ours,) = send(ANSWERS[name])
    for headers, *_ in (alone, ours):
        headers.pop("Host")
    assert ours == alone


def test_a_server_that_is_unwell_gets_the_whole_answer_again(patched, monkeypatch):
    real_sleep = asyncio.sleep
    monkeypatch.setattr("aiohttp_retry.client.asyncio.sleep", lambda _: real_sleep(0))
    got = send(ANSWERS["large"], statuses=(503, 500, 200))
    assert [json.loads(body) for _, body, _ in got] == [ANSWERS["large"]] * 3


def test_an_answer_that_is_refused_is_given_up_as_the_sdk_does(patched, capsys):
    assert len(send(ANSWERS["large"], statuses=(400,))) == 1
    assert "Failed to return job results. | 400" in capsys.readouterr().out


def test_what_is_no_json_ends_as_with_the_sdk_alone(patched, capsys):
    assert send({"output": {"b64": LARGE, "bad": {1, 2}}}) == []
    assert "Error while returning job result. | Object of type set is not JSON serializable" in capsys.readouterr().out
    with pytest.raises(UnicodeEncodeError):
        send({"output": {"b64": LARGE, "bad": "\ud800"}})


def test_a_large_answer_is_sent_with_hardly_more_memory_than_it_has(patched):
    answer = {"output": {"images": [{"b64": LARGE * 160}]}}  # 14 MB in one string
    size = len(answer["output"]["images"][0]["b64"])
    tracemalloc.start()
    try:
        ((_, _, length),) = send(answer, keep=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length > size > 13e6
    assert peak < 0.4 * size  # the SDK alone: twice its size and more


def test_from_the_disk_to_the_platform_40_mb_of_pngs_take_less_than_two_and_a_half_times_their_answer(
    tmp_path, patched
):
    files = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(10_000_000))
        files.append(OutputFile(Output("9", path.name, "", "output"), path))
    delivery = Delivery(
        DeliveryOptions("base64", "original", 90, False, 100, None), RenderedFrom("job1", {}), files, Stop()
    )
    tracemalloc.start()
    try:
        answer = delivery.answer(lambda: {**delivery.entries_by_kind(), "warnings": []})
        ((_, _, length),) = send({"output": answer}, keep=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length > 53e6
    assert peak < 1.5 * length


def test_no_large_string_is_copied():
    pieces = json_pieces(ANSWERS["large"], ensure_ascii=False)
    assert "".join(pieces) == json.dumps(ANSWERS["large"], ensure_ascii=False)
    assert sum(piece is LARGE for piece in pieces) == 2


@pytest.mark.parametrize("change", ["no json", "another json", "no _transmit", "another _transmit"])
def test_an_sdk_of_another_shape_is_left_alone(change, caplog):
    sdk = ModuleType("rp_http")
    sdk.json, sdk._transmit = json, rp_http._transmit
    if change == "no json":
        del sdk.json
    elif change == "another json":
        sdk.json = object()
    elif change == "no _transmit":
        del sdk._transmit
    else:
        sdk._transmit = lambda session, url, data, more: None
    before = dict(vars(sdk))
    assert not stream_large_results(sdk)
    assert vars(sdk) == before
    assert "takes" not in caplog.text
    assert "more memory" in caplog.text


def test_an_answer_in_a_line_of_a_log_is_its_fields_names_and_still_the_answer():
    async def handler(event):
        return {"images": [{"b64": LARGE}], "prompt": "secret"}

    answer = asyncio.run(without_debug_dump(handler)({}))
    assert f"{answer} {answer!r}" == "<an answer: images, prompt> <an answer: images, prompt>"
    assert answer == {"images": [{"b64": LARGE}], "prompt": "secret"}
    assert isinstance(answer, dict)
