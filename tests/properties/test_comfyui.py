"""ComfyUI's words: whatever a custom node makes it say, the worker goes on listening and the job gets an answer."""

from __future__ import annotations

import asyncio
import json
import queue
import threading

import pytest
from aiohttp import WSMsgType, web
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import JSON, TEXT, broken
from tests.support.waiting import end_server
from worker.comfyui.api import PREVIEW, ComfyApi
from worker.comfyui.history import cached_nodes, failure
from worker.comfyui.progress import JobProgress
from worker.comfyui.run import PromptRun
from worker.comfyui.validation_errors import omitted_lists, validation_error
from worker.errors import Code, WorkerError
from worker.results.outputs import TEXT as TEXT_TYPE
from worker.results.outputs import UniqueNames, choose, outputs_of

# --- frames ---------------------------------------------------------------------------------------------------------

PROMPT_ID = "the-prompt"
NODES = {"3": {"state": "running", "value": 3, "max": 20, "node_id": "3", "real_node_id": "3"}}
EVENTS = [
    {"type": "execution_start", "data": {"prompt_id": PROMPT_ID}},
    {"type": "execution_cached", "data": {"prompt_id": PROMPT_ID, "nodes": ["1"]}},
    {"type": "progress_state", "data": {"prompt_id": PROMPT_ID, "nodes": NODES}},
    {"type": "progress", "data": {"prompt_id": PROMPT_ID, "node": "3", "value": 1, "max": 20}},
    {"type": "executing", "data": {"prompt_id": PROMPT_ID, "node": "3", "display_node": "3"}},
    {"type": "executed", "data": {"prompt_id": PROMPT_ID, "node": "9", "output": {"images": []}}},
    {"type": "execution_error", "data": {"prompt_id": PROMPT_ID, "node_id": "3", "exception_message": "no"}},
    {"type": "executing", "data": {"prompt_id": PROMPT_ID, "node": None}},
]
EVENT = broken(*EVENTS)
TEXT_FRAMES = st.one_of(
    EVENT.map(json.dumps), TEXT, st.sampled_from(["[" * 50_000, '{"a":' * 50_000, "1" * 9999, "null", "NaN"])
)


def preview_frame(kind, length, metadata, image):
    return kind.to_bytes(4, "big") + length.to_bytes(4, "big") + metadata + image


BINARY_FRAMES = st.one_of(
    st.binary(max_size=30),
    st.builds(
        preview_frame,
        st.sampled_from([1, 2, 4, 4, 4, 2**32 - 1]),
        st.one_of(st.integers(0, 80), st.just(2**32 - 1)),
        st.one_of(JSON.map(json.dumps).map(str.encode), st.just(b"[" * 50_000), st.binary(max_size=9)),
        st.binary(max_size=9),
    ),
)


class Talker:
    """A ComfyUI that only has a websocket, and a worker's listener on it, both in a thread with a loop of its own."""

    def __init__(self):
        self.heard: queue.Queue = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._call(self._start())

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self):
        self.socket = self._loop.create_future()
        app = web.Application()
        app.router.add_get("/ws", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.api = ComfyApi(f"http://127.0.0.1:{self._runner.addresses[0][1]}", "client")
        self._listening = self.api.subscribed(self._hear)
        self._listening.__enter__()
        self.run = PromptRun(
            0.0, 1, JobProgress({"3": {"class_type": "K", "inputs": {"steps": 20}}}, with_previews=True, changed=bool)
        )
        self.run.prompt_id = PROMPT_ID
        self.api.follow_events()
        assert await self.api.connected(10)

    async def _serve(self, request):
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        self.socket.set_result(socket)
        async for message in socket:
            assert message.type is WSMsgType.TEXT
        return socket

    def _hear(self, event):
        if event["type"] == "the end":
            self.heard.put(event["data"]["number"])
        self.run.on_event(event)

    def say(self, frames, number):
        """Send the frames, then one that says which it was."""

        async def send():
            socket = await self.socket
            for frame in frames:
                await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send_str(frame))
            await socket.send_json({"type": "the end", "data": {"number": number}})

        self._call(send())

    def stop(self):
        self._call(self.api.close())
        self._call(end_server(self._runner))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def talker():
    talker = Talker()
    yield talker
    talker.stop()


def sendable(frame):
    return isinstance(frame, bytes) or frame.isascii() or not any("\ud800" <= c <= "\udfff" for c in frame)


@given(st.lists(st.one_of(TEXT_FRAMES, BINARY_FRAMES).filter(sendable), max_size=4), st.integers())
def test_no_frame_ends_the_listening(talker, frames, number):
    talker.say(frames, number)
    assert talker.heard.get(timeout=20) == number


@given(
    st.lists(
        EVENT.filter(
            lambda e: isinstance(e, dict) and isinstance(e.get("data"), dict) and isinstance(e.get("type"), str)
        ),
        max_size=6,
    )
)
def test_a_runs_end_is_heard_after_any_events_and_its_progress_can_always_be_sent(events):
    progress = JobProgress(
        {"3": {"class_type": "K", "inputs": {"steps": 20}}, "9": {}}, with_previews=True, changed=bool
    )
    run = PromptRun(0.0, 1, progress)
    run.prompt_id = PROMPT_ID
    for event in events:
        run.on_event(event)
    run.on_event({"type": PREVIEW, "data": {"image": b"jpeg", "node": None, "prompt_id": PROMPT_ID}})
    run.on_event({"type": "execution_success", "data": {"prompt_id": PROMPT_ID}})
    run.on_event({"type": "executing", "data": {"prompt_id": PROMPT_ID, "node": None}})
    assert run.dequeued
    assert run.final_event
    json.dumps(progress.pop_update())


# --- answers --------------------------------------------------------------------------------------------------------

IMAGE = {"filename": "a_00001_.png", "subfolder": "", "type": "output"}
FAILED = {
    "node_id": "3",
    "node_type": "KSampler",
    "exception_type": "RuntimeError",
    "exception_message": "out of memory",
    "traceback": ["line 1", "line 2"],
}
HISTORIES = broken(
    {
        "outputs": {"9": {"images": [IMAGE], "animated": [True]}, "10:2": {"text": ["a"]}},
        "status": {"status_str": "success", "completed": True, "messages": [["execution_cached", {"nodes": ["1"]}]]},
    },
    {"outputs": {}, "status": {"status_str": "error", "messages": [["execution_error", FAILED]]}},
    {"outputs": {}, "status": {"status_str": "error", "messages": [["execution_interrupted", {"node_id": "3"}]]}},
).filter(lambda history: isinstance(history, dict))


def sent(error):
    """The error as a job's answer, which must be JSON."""
    json.dumps(error.answer())
    return error


@given(HISTORIES)
def test_any_history_says_success_or_gives_an_error_that_can_be_sent(history):
    error = failure(history)
    if error:
        assert sent(error).code in (Code.NODE_FAILED, Code.OUT_OF_MEMORY, Code.INTERRUPTED)


@given(HISTORIES)
def test_any_history_gives_files_of_plain_text_each_once_or_no_output(history):
    outputs = outputs_of(history)
    assert len(set(outputs)) == len(outputs)
    assert all(isinstance(text, str) for each in outputs for text in (each.filename, each.subfolder, each.type))
    cached_nodes(history)
    try:
        chosen, _ = choose(outputs)
    except WorkerError as error:
        assert sent(error).code is Code.NO_OUTPUT
        return
    assert len({each.type for each in chosen} - {TEXT_TYPE}) <= 1


@given(st.lists(st.one_of(TEXT, st.sampled_from(["a.png", "A.png", "a (2).png"])), max_size=6))
def test_no_two_files_of_an_answer_have_one_name_on_any_system(filenames):
    names = UniqueNames()
    given_names = [names.unique(filename).casefold() for filename in filenames]
    assert len(set(given_names)) == len(given_names)


EXTRA = {"input_name": "ckpt_name", "received_value": "a.safetensors", "input_config": [["b.safetensors"], {}]}
REFUSALS = broken(
    {
        "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"},
        "node_errors": {
            "4": {
                "class_type": "CheckpointLoaderSimple",
                "dependent_outputs": ["9"],
                "errors": [
                    {
                        "type": "value_not_in_list",
                        "message": "no",
                        "details": "ckpt_name: 'a' not in",
                        "extra_info": EXTRA,
                    },
                    {
                        "type": "required_input_missing",
                        "message": "no",
                        "details": "x",
                        "extra_info": {"input_name": "x"},
                    },
                    {"type": "custom_validation_failed", "message": "", "details": "image - Invalid image file: a.png"},
                ],
            }
        },
    },
    {"error": {"type": "missing_node_type", "message": "node X does not exist", "details": "Node ID '#3'"}},
    {"error": {"type": "prompt_no_outputs", "message": "no outputs"}, "node_errors": []},
).filter(lambda body: isinstance(body, dict))


@given(st.sampled_from([200, 400, 400, 500]), REFUSALS, st.none() | st.just(["9"]))
def test_any_answer_to_a_prompt_is_its_acceptance_or_an_error_that_can_be_sent(status, body, targets):
    omitted_lists(body)
    error = validation_error(status, body, targets, {})
    assert error or status == 200
    if error:
        assert sent(error).code in (
            Code.PROMPT_INVALID, Code.NODE_MISSING, Code.MODEL_MISSING, Code.INPUT_MISSING, Code.NO_OUTPUT,
        )  # fmt: skip
