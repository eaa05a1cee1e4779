"""The client in a real browser: what a person does, on every frontend that is supported."""

from __future__ import annotations

import json
import time

import pytest
import requests

from tests.browser.conftest import CHECKPOINT, LOCAL_ONLY
from tests.browser.workflows import LIST, LOADER, PREVIEW, SAMPLER, SAVE, SECOND_SAMPLER, SECOND_SAVE, two_samplers
from tests.support.disk_s3 import DiskS3
from tests.support.runpod_platform import CLIENT_KEY
from tests.support.waiting import wait_until

GREEN = "#0f0"


@pytest.fixture
def at_desk(desk):
    """The page with a fresh graph, Remote configured and ON."""
    desk.open()
    config = desk.js(
        "return api.fetchApi('/remote/config', {headers: {'X-Remote-Serverless': '1'}}).then((answer) => answer.json())"
    )
    if config["endpoint"] != desk.platform.base:
        desk.configure()
    desk.toggle(on=True)
    return desk


def test_config_and_toggle(desk):
    desk.open()
    assert "Remote: OFF" in desk.label()
    assert desk.js("return Object.hasOwn(api, 'queuePrompt')") is False
    desk.click(".remote-serverless-config")
    desk.wait("return document.querySelector('.remote-serverless-dialog[open]')")
    desk.enter(endpoint="http://example.com/v2/abc")
    desk.dialog_button("save")
    assert "unencrypted" in desk.answer()
    desk.enter(endpoint=desk.platform.base + "/run", api_key="not-the-right-key")
    desk.dialog_button("test")
    desk.wait(
        "return document.querySelector('.remote-serverless-dialog output').textContent.includes('refused the API key')"
    )
    desk.enter(api_key=CLIENT_KEY)
    desk.dialog_button("test")
    desk.wait(
        "return document.querySelector('.remote-serverless-dialog output').textContent.includes('1 worker ready')"
    )
    desk.dialog_button("save")
    desk.wait("return document.querySelector('.remote-serverless-dialog output').textContent === 'Saved.'")
    state = desk.js(
        "const {api_key, endpoint} = document.querySelector('.remote-serverless-dialog form').elements;"
        "return [api_key.type, api_key.value, api_key.placeholder, endpoint.value]"
    )
    assert state == ["password", "", "configured", desk.platform.base]
    desk.dialog_button("close")
    desk.toggle(on=True)
    desk.toggle(on=False)
    assert_key_is_nowhere(desk)


def test_a_bucket_is_entered_and_its_keys_never_come_back(at_desk, tmp_path):
    with DiskS3(tmp_path) as bucket:
        at_desk.click(".remote-serverless-config")
        at_desk.wait("return document.querySelector('.remote-serverless-dialog[open]')")
        assert at_desk.js("return document.querySelector('.remote-serverless-dialog details').open") is False
        at_desk.enter(bucket_address="http://example.com", bucket_name="pics")
        at_desk.dialog_button("save")
        assert "access key id is missing" in at_desk.answer()
        keys = {"bucket_access_key_id": "disk-access", "bucket_secret_access_key": "disk-secret"}
        at_desk.enter(bucket_address=bucket.url, **keys)
        at_desk.dialog_button("test")
        said = "return document.querySelector('.remote-serverless-dialog output').textContent"
        at_desk.wait(f"{said}.endsWith('The bucket works.')")
        at_desk.dialog_button("save")
        at_desk.wait(f"{said} === 'Saved.'")
        fields = at_desk.js(
            "return [...document.querySelectorAll('.remote-serverless-dialog details input')]"
            ".map((input) => [input.type, input.value, input.placeholder])"
        )
        assert [value for _, value, _ in fields] == [bucket.url, "pics", "", "", ""]
        assert fields[3:] == [["password", "", "configured"]] * 2
        assert "disk-secret" not in at_desk.js("return document.documentElement.outerHTML")
        at_desk.dialog_button("forget_bucket")
        at_desk.wait(f"{said}.startsWith('The saved bucket')")
        at_desk.dialog_button("close")


def assert_key_is_nowhere(desk):
    page = desk.js(
        "return document.documentElement.outerHTML + JSON.stringify([{...localStorage}, {...sessionStorage}])"
    )
    assert CLIENT_KEY not in page
    header = {"X-Remote-Serverless": "1"}
    for path in ("/settings", "/remote/config", "/remote/jobs", "/userdata?dir=."):
        assert CLIENT_KEY not in requests.get(desk.local.url + path, headers=header, timeout=10).text
    assert CLIENT_KEY not in desk.local.engine.log_text()


def test_a_batch_of_three_runs_remotely(at_desk):
    before, files = len(at_desk.jobs()), len(at_desk.local.files("output"))
    at_desk.load(repo_list="# only a comment, so that nothing is fetched")
    at_desk.queue(3)
    jobs = at_desk.wait_jobs(before, 3)
    assert [job["status"] for job in jobs] == ["COMPLETED"] * 3
    assert [job["input"]["prompt"][str(SAMPLER)]["inputs"]["seed"] for job in jobs] == [100, 101, 102]
    assert jobs[0]["input"]["repo_list"].startswith("# only a comment")
    assert all(str(LIST) not in job["input"]["prompt"] for job in jobs)
    at_desk.wait_idle()
    at_desk.wait_picture(SAVE)
    at_desk.wait_picture(PREVIEW)
    seen = at_desk.seen()
    assert seen["strokes"].get(str(SAMPLER)) == GREEN
    assert any(0 < value < 1 for value in seen["progress"])
    assert at_desk.js("return app.graph.nodes.filter((n) => n.strokeStyles?.running?.call(n)?.color).length") == 0
    output = at_desk.local.files("output")
    assert len(output) == files + 3
    assert output[-1].startswith("remote/pic_0")
    assert len(at_desk.local.files("remote_results")) == len(output)
    assert CLIENT_KEY not in at_desk.local.engine.log_text()


def test_the_first_picture_is_seen_while_the_second_sampler_runs(at_desk):
    before = len(at_desk.jobs())
    set_previews(at_desk, True)
    try:
        at_desk.put(two_samplers(CHECKPOINT, seed=1000 + before, steps=5, then_steps=100))
        at_desk.queue()
        at_desk.wait_picture(SAVE)
        shown = "return app.graph.getNodeById(arguments[0]).imgs[0].src"
        assert "type=temp" in at_desk.js(shown, SAVE)
        assert at_desk.jobs()[before]["status"] == "IN_PROGRESS"
        at_desk.wait(
            "const n = app.graph.getNodeById(arguments[0]); return n.strokeStyles?.running?.call(n)?.color",
            SECOND_SAMPLER,
        )
        assert at_desk.wait_jobs(before, 1)[0]["status"] == "COMPLETED"
        at_desk.wait_picture(SECOND_SAVE)
        at_desk.wait(shown + ".includes('type=output')", SAVE)
        at_desk.wait_idle()
        assert not [name for name in at_desk.local.files("scratch/temp") if "remote_" in name]
    finally:
        set_previews(at_desk, False)


def set_previews(desk, on):
    desk.js(
        "return api.fetchApi('/remote/config', {method: 'POST', body: JSON.stringify({previews: arguments[0]}),"
        " headers: {'X-Remote-Serverless': '1', 'Content-Type': 'application/json'}}).then((answer) => answer.ok)",
        on,
    )


def test_chosen_outputs_and_skipped_models_are_sent_so(at_desk):
    before = len(at_desk.jobs())
    at_desk.click(".remote-serverless-models")
    at_desk.wait("return document.querySelector('.remote-serverless-models').innerText.includes('skip')")
    at_desk.js("app.queuePrompt(0, 1, ['9'])")
    sent = at_desk.wait_jobs(before, 1)[0]["input"]
    assert sent["partial_execution_targets"] == ["9"]
    assert sent["skip_repo_list"] is True
    at_desk.wait("return !document.querySelector('.remote-serverless-models').innerText.includes('skip')")
    at_desk.wait_idle()


def test_cancel(at_desk):
    before = len(at_desk.jobs())
    at_desk.load(steps=300)
    at_desk.queue()
    at_desk.wait("return window.__seen.strokes[arguments[0]]", SAMPLER)
    at_desk.js("app.extensionManager.command.execute('Comfy.Interrupt')")
    assert at_desk.wait_jobs(before, 1)[0]["status"] == "CANCELLED"
    at_desk.wait_idle()
    assert at_desk.js("return app.graph.nodes.filter((n) => n.strokeStyles?.running?.call(n)?.color).length") == 0
    at_desk.load()
    at_desk.queue()
    assert at_desk.wait_jobs(before + 1, 1)[0]["status"] == "COMPLETED"
    at_desk.wait_idle()


def test_a_missing_model_marks_its_node(at_desk):
    before = len(at_desk.jobs())
    at_desk.load(checkpoint=LOCAL_ONLY)
    at_desk.queue()
    assert at_desk.wait_jobs(before, 1)[0]["status"] == "FAILED"
    at_desk.wait("return String(app.lastExecutionError?.node_id) === arguments[0]", str(LOADER))
    assert "MODEL_MISSING" in at_desk.js("return app.lastExecutionError.exception_message")
    at_desk.wait("return /MODEL_MISSING|Load Checkpoint failed/.test(document.body.innerText)")
    red = "const n = app.graph.getNodeById(arguments[0]); return n.strokeStyles?.executionError?.call(n)?.color"
    at_desk.wait(red, LOADER)
    at_desk.wait_idle()


def test_the_page_is_reloaded_in_the_middle(at_desk):
    before = len(at_desk.jobs())
    at_desk.load(steps=80)
    at_desk.queue()
    at_desk.wait("return window.__seen.strokes[arguments[0]]", SAMPLER)
    at_desk.driver.refresh()
    at_desk.come_back(steps=80)
    at_desk.wait("return document.querySelector('.remote-serverless-status')")
    at_desk.wait(
        "const n = app.graph.getNodeById(arguments[0]); return n.strokeStyles?.running?.call(n)?.color", SAMPLER
    )
    assert at_desk.wait_jobs(before, 1)[0]["status"] == "COMPLETED"
    at_desk.wait_picture(SAVE)
    at_desk.wait_idle()


def test_the_tab_is_closed_in_the_middle(at_desk):
    before, files = len(at_desk.jobs()), len(at_desk.local.files("output"))
    at_desk.load(steps=20)
    at_desk.queue()
    at_desk.wait("return window.__seen.strokes[arguments[0]]", SAMPLER)
    old = at_desk.driver.current_window_handle
    at_desk.driver.switch_to.new_window("tab")
    new = at_desk.driver.current_window_handle
    at_desk.driver.switch_to.window(old)
    at_desk.driver.close()
    at_desk.driver.switch_to.window(new)
    assert at_desk.wait_jobs(before, 1)[0]["status"] == "COMPLETED"
    wait_until(lambda: len(at_desk.local.files("output")) == files + 1)
    at_desk.driver.get(at_desk.local.url)
    at_desk.come_back(steps=20)
    at_desk.wait_picture(SAVE)


def test_the_local_server_is_restarted_in_the_middle(at_desk):
    before, files = len(at_desk.jobs()), len(at_desk.local.files("output"))
    at_desk.load(steps=40)
    at_desk.queue()
    at_desk.wait("return window.__seen.strokes[arguments[0]]", SAMPLER)
    at_desk.local.restart()
    assert at_desk.wait_jobs(before, 1)[0]["status"] == "COMPLETED"
    wait_until(lambda: len(at_desk.local.files("output")) == files + 1)
    at_desk.wait_picture(SAVE)
    time.sleep(1)
    assert len(at_desk.local.files("output")) == files + 1


def test_auto_queue_asks_first(at_desk):
    before = len(at_desk.jobs())
    at_desk.js(
        "const found = app.extensionManager.queueSettings; const settings = found.value ?? found;"
        "window.__asked = [];"
        "app.extensionManager.dialog.confirm = async (question) => (window.__asked.push(question), false);"
        "settings.mode = 'instant';"
    )
    at_desk.js("app.extensionManager.command.execute('Comfy.QueuePrompt')")
    assert "money" in at_desk.wait("return window.__asked[0]?.message")
    at_desk.wait("const found = app.extensionManager.queueSettings; return (found.value ?? found).mode === 'disabled'")
    assert len(at_desk.jobs()) == before


def test_off_runs_on_this_machine(at_desk):
    before = len(at_desk.jobs())
    at_desk.toggle(on=False)
    at_desk.queue()
    at_desk.wait_picture(SAVE)
    history = requests.get(at_desk.local.url + "/history", timeout=10).json()
    assert json.dumps(history).count("execution_success") >= 1
    assert len(at_desk.jobs()) == before
