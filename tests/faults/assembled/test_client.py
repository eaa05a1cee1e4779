"""The client's side: the local ComfyUI with the pack, and an endpoint that says what the test tells it to."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.client.endpoint import completed, picture, png
from tests.faults.assembled.catalogue import RIGHT, SAID
from tests.faults.assembled.sights import amount, counted
from tests.support.simulator_process import Client
from tests.support.waiting import wait_until

fault = pytest.mark.fault
_colors = ((0, number, 99) for number in itertools.count(1))


class Page:
    """What a person does and finds: jobs run by the pack, and pictures in the local folders."""

    def __init__(self, local, endpoint, case) -> None:
        self.local, self.endpoint, self.case = local, endpoint, case
        self.color = next(_colors)
        self.before = self.files()
        self.started = time.monotonic()

    def files(self) -> dict[str, bytes]:
        """Every file of the local output folder."""
        folder = self.local.comfy.base / "output"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def new(self) -> dict[str, bytes]:
        """Those that were not there before."""
        return {name: data for name, data in self.files().items() if name not in self.before}

    def refused(self, answer) -> str:
        """The job was refused at once, in words; nothing was written."""
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
        self._note(SAID, f"“{message}”")
        assert self.new() == {}
        return message

    def finished(self, prompt_id: str, seen: str) -> None:
        """The job's picture is there, once."""
        wait_until(lambda: self.local.job(prompt_id)["state"] == "done", 30)
        assert list(self.new().values()) == [png(self.color)]
        self._note(RIGHT, "right: the picture is saved, once", seen)

    def next_job(self) -> None:
        """A job with another picture."""
        after = Page(self.local, self.endpoint, self.case)
        self.endpoint.statuses = [completed(picture(color=after.color))]
        answer = self.local.run()
        assert answer.ok, answer.text
        wait_until(lambda: self.local.job(answer.json()["prompt_id"])["state"] == "done", 30)
        assert list(after.new().values()) == [png(after.color)]
        self.case.worked(time.monotonic() - after.started)

    def _note(self, end: str, answer: str, seen: str = "") -> None:
        disk = ", ".join(f"+ `output/{name}` ({amount(len(data))})" for name, data in self.new().items()) or "as before"
        seen = "; ".join(filter(None, ["asked for: " + counted(path for _, path, *_ in self.endpoint.seen), seen]))
        self.case.note(end, answer, time.monotonic() - self.started, seen=seen, disk=disk)


@pytest.fixture
def page(ready, endpoint, case):
    return Page(ready, endpoint, case)


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        pytest.param((401, {}, ""), "API key", marks=fault("client-401")),
        pytest.param((404, {}, ""), "does not exist", marks=fault("client-404")),
        pytest.param((200, {}, "<html>"), "not RunPod's JSON", marks=fault("client-garbage")),
    ],
)
def test_a_refusal_is_said_at_once(page, endpoint, refusal, says):
    endpoint.refuse["run"] = [refusal]
    assert says in page.refused(page.local.run())
    page.next_job()


@fault("client-429")
def test_an_endpoint_that_asks_to_wait_is_asked_again(page, endpoint):
    endpoint.refuse["run"] = [(429, {"Retry-After": "1"}, ""), (429, {}, "")]
    endpoint.statuses = [completed(picture(color=page.color))]
    page.finished(page.local.run().json()["prompt_id"], "two answers of 429")
    page.next_job()


@fault("client-5xx")
def test_trouble_while_a_job_runs_does_not_end_it(page, endpoint):
    endpoint.statuses = [{"status": "IN_PROGRESS"}, completed(picture(color=page.color))]
    endpoint.refuse["status"] = [(502, {}, ""), (200, {}, "<html>")]
    page.finished(page.local.run().json()["prompt_id"], "a 502 and an HTML page for /status")
    page.next_job()


@fault("client-restart")
def test_a_restart_of_the_local_comfyui_loses_nothing(page, endpoint):
    endpoint.statuses = [{"status": "IN_PROGRESS"}]
    prompt_id = page.local.run().json()["prompt_id"]
    wait_until(lambda: page.local.job(prompt_id)["state"] == "running", 15)
    page.local.comfy.restart()
    assert page.local.job(prompt_id)["state"] == "running"
    endpoint.statuses = [completed(picture(color=page.color))]
    page.finished(prompt_id, "the job was running before and after")
    page.next_job()


@fault("client-tab")
def test_a_tab_that_is_closed_finds_its_picture_when_it_comes_back(page, endpoint):
    extra = {"extra_pnginfo": {"workflow": {"id": "w-closed"}}}
    endpoint.statuses = [{"status": "IN_PROGRESS"}]
    with Client(page.local.comfy.engine, "closed"):
        prompt_id = page.local.run(client_id="closed", extra_data=extra).json()["prompt_id"]
    endpoint.statuses = [completed(picture(color=page.color))]
    page.finished(prompt_id, "the page's socket was closed before the job ended")
    with Client(page.local.comfy.engine, "back") as back:
        page.local.post("/remote/attach", {"client_id": "back", "workflow_id": "w-closed"})
        frames = back.until(lambda frame: frame["type"] == "executed" and frame["data"]["node"] == "9")
    assert frames[-1]["data"]["prompt_id"] == prompt_id
    page.next_job()
