"""ComfyUI's HTTP and websocket: nothing that it sends may end the listening or fail a request."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from tests.support.waiting import end_server
from worker.comfyui.api import ComfyApi, NoAnswerError

ODD_FRAMES = ["[" * 50_000, "1" * 5000, "5", "{}", '{"data": {}}', '{"type": [], "data": {}}']
ODD_FRAMES += ['{"type": "worker.preview", "data": {}}', b"", b"\x00\x00\x00\x04\xff\xff\xff\xff" + b"[" * 50_000]


async def events_after(frames, listener):
    """Return the types of the events that a listener gets of these frames and of a last one, ``good``."""
    received, done = [], asyncio.Event()

    async def serve(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for frame in frames:
            await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send_str(frame))
        await socket.send_json({"type": "good", "data": {}})
        async for _ in socket:
            pass
        return socket

    def on_event(event):
        received.append(event["type"])
        if event["type"] == "good":
            done.set()
        listener(event)

    app = web.Application()
    app.router.add_get("/ws", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = ComfyApi(f"http://127.0.0.1:{runner.addresses[0][1]}", "me")
    with api.subscribed(on_event):
        api.follow_events()
        await asyncio.wait_for(done.wait(), 20)
    await api.close()
    await end_server(runner)
    return received


def test_frames_that_say_nothing_are_passed_over():
    assert asyncio.run(events_after(ODD_FRAMES, bool)) == ["worker.socket_open", "good"]


def test_an_event_that_the_listener_cannot_process_is_logged_and_the_next_one_delivered(caplog):
    def listener(event):
        if event["type"] == "bad":
            raise KeyError("node")

    received = asyncio.run(events_after(['{"type": "bad", "data": {}}'], listener))
    assert received == ["worker.socket_open", "bad", "good"]
    assert "cannot process an event of ComfyUI (bad)" in caplog.text


def test_answers_that_are_no_json_objects_say_nothing():
    async def ask():
        async def answer(request):
            return web.Response(
                body={"/system_stats": b"[" * 50_000, "/history/a": b"1" * 5000}.get(request.path, b"[]")
            )

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api = ComfyApi(f"http://127.0.0.1:{runner.addresses[0][1]}", "me")
        answers = (
            await api.system_stats(),
            await api.history("a"),
            await api.has_prompt("a"),
            await api.object_info("A"),
        )
        await end_server(runner)
        with pytest.raises(NoAnswerError):
            await api.system_stats()
        assert not await api.is_up()
        await api.close()
        return answers

    assert asyncio.run(ask()) == ({}, None, False, {})
