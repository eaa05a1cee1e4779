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
def remote_page(comfy_page):
    """The page with a fresh graph, Remote configured and ON."""
    comfy_page.open()
    config = comfy_page.js(
        "return api.fetchApi('/remote/config', {headers: {'X-Remote-Serverless': '1'}}).then((answer) => answer.json())"
    )
    if config["endpoint"] != comfy_page.platform.base:
        comfy_page.configure()
    comfy_page.toggle(on=True)
    return comfy_page


def test_config_and_toggle(comfy_page):
    comfy_page.open()
    assert "Remote: OFF" in comfy_page.label()
    assert comfy_page.js("return Object.hasOwn(api, 'queuePrompt')") is False
    comfy_page.click(".remote-serverless-config")
    comfy_page.wait("return document.querySelector('.remote-serverless-dialog[open]')")
    comfy_page.enter(endpoint="http://example.com/v2/abc")
    comfy_page.dialog_button("save")
    assert "unencrypted" in comfy_page.answer()
    comfy_page.enter(endpoint=comfy_page.platform.base + "/run", api_key="not-the-right-key")
    comfy_page.dialog_button("test")
    comfy_page.wait(
        "return document.querySelector('.remote-serverless-dialog output').textContent.includes('refused the API key')"
    )
    comfy_page.enter(api_key=CLIENT_KEY)
    comfy_page.dialog_button("test")
    comfy_page.wait(
        "return document.querySelector('.remote-serverless-dialog output').textContent.includes('1 worker ready')"
    )
    comfy_page.dialog_button("save")
    comfy_page.wait("return document.querySelector('.remote-serverless-dialog output').textContent === 'Saved.'")
    state = comfy_page.js(
        "const {api_key, endpoint} = document.querySelector('.remote-serverless-dialog form').elements;"
        "return [api_key.type, api_key.value, api_key.placeholder, endpoint.value]"
    )
    assert state == ["password", "", "configured", comfy_page.platform.base]
    comfy_page.dialog_button("close")
    comfy_page.toggle(on=True)
    comfy_page.toggle(on=False)
    assert_key_is_nowhere(comfy_page)


def test_a_bucket_is_entered_and_its_keys_never_come_back(remote_page, tmp_path):
    with DiskS3(tmp_path) as bucket:
        remote_page.click(".remote-serverless-config")
        remote_page.wait("return document.querySelector('.remote-serverless-dialog[open]')")
        assert remote_page.js("return document.querySelector('.remote-serverless-dialog details').open") is False
        remote_page.enter(bucket_address="http://example.com", bucket_name="pics")
        remote_page.dialog_button("save")
        assert "access key id is missing" in remote_page.answer()
        keys = {"bucket_access_key_id": "disk-access", "bucket_secret_access_key": "disk-secret"}
        remote_page.enter(bucket_address=bucket.url, **keys)
        remote_page.dialog_button("test")
        said = "return document.querySelector('.remote-serverless-dialog output').textContent"
        remote_page.wait(f"{said}.endsWith('The bucket works.')")
        remote_page.dialog_button("save")
        remote_page.wait(f"{said} === 'Saved.'")
        fields = remote_page.js(
            "return [...document.querySelectorAll('.remote-serverless-dialog details input')]"
            ".map((input) => [input.type, input.value, input.placeholder])"
        )
        assert [value for _, value, _ in fields] == [bucket.url, "pics", "", "", ""]
        assert fields[3:] == [["password", "", "configured"]] * 2
        assert "disk-secret" not in remote_page.js("return document.documentElement.outerHTML")
        remote_page.dialog_button("forget_bucket")
        remote_page.wait(f"{said}.startsWith('The saved bucket')")
        remote_page.dialog_button("close")


def assert_key_is_nowhere(comfy_page):
    page = comfy_page.js(
        "return document.documentElement.outerHTML + JSON.stringify([{...localStorage}, {...sessionStorage}])"
    )
    assert CLIENT_KEY not in page
    header = {"X-Remote-Serverless": "1"}
    for path in ("/settings", "/remote/config", "/remote/jobs", "/userdata?dir=."):
        assert CLIENT_KEY not in requests.get(comfy_page.local.url + path, headers=header, timeout=10).text
    assert CLIENT_KEY not in comfy_page.local.engine.log_text()


def test_a_batch_of_three_runs_remotely(remote_page):
    before, files = len(remote_page.jobs()), len(remote_page.local.files("output"))
    remote_page.load(repo_list="# only a comment, so that nothing is fetched")
    remote_page.queue(3)
    jobs = remote_page.wait_jobs(before, 3)
    assert [job["status"] for job in jobs] == ["COMPLETED"] * 3
    assert [job["input"]["prompt"][str(SAMPLER)]["inputs"]["seed"] for job in jobs] == [100, 101, 102]
    assert jobs[0]["input"]["repo_list"].startswith("# only a comment")
    assert all(str(LIST) not in job["input"]["prompt"] for job in jobs)
    remote_page.wait_idle()
    remote_page.wait_picture(SAVE)
    remote_page.wait_picture(PREVIEW)
    seen = remote_page.seen()
    assert seen["strokes"].get(str(SAMPLER)) == GREEN
    assert any(0 < value < 1 for value in seen["progress"])
    assert remote_page.js("return app.graph.nodes.filter((n) => n.strokeStyles?.running?.call(n)?.color).length") == 0
    output = remote_page.local.files("output")
    assert len(output) == files + 3
    assert output[-1].startswith("remote/pic_0")
    assert len(remote_page.local.files("remote_results")) == len(output)
    assert CLIENT_KEY not in remote_page.local.engine.log_text()


def test_the_first_picture_is_seen_while_the_second_sampler_runs(remote_page):
    before = len(remote_page.jobs())
    set_previews(remote_page, True)
    try:
        remote_page.put(two_samplers(CHECKPOINT, seed=1000 + before, steps=5, then_steps=100))
        remote_page.queue()
        remote_page.wait_picture(SAVE)
        shown = "return app.graph.getNodeById(arguments[0]).imgs[0].src"
        assert "type=temp" in remote_page.js(shown, SAVE)
        assert remote_page.jobs()[before]["status"] == "IN_PROGRESS"
        remote_page.wait(
            "const n = app.graph.getNodeById(arguments[0]); return n.strokeStyles?.running?.call(n)?.color",
            SECOND_SAMPLER,
        )
        assert remote_page.wait_jobs(before, 1)[0]["status"] == "COMPLETED"
        remote_page.wait_picture(SECOND_SAVE)
        remote_page.wait(shown + ".includes('type=output')", SAVE)
        remote_page.wait_idle()
        assert not [name for name in remote_page.local.files("scratch/temp") if "remote_" in name]
    finally:
        set_previews(remote_page, False)


def set_previews(comfy_page, on):
    comfy_page.js(
        "return api.fetchApi('/remote/config', {method: 'POST', body: JSON.stringify({previews: arguments[0]}),"
        " headers: {'X-Remote-Serverless': '1', 'Content-Type': 'application/json'}}).then((answer) => answer.ok)",
        on,
    )


def test_chosen_outputs_and_skipped_models_are_sent_so(remote_page):
    before = len(remote_page.jobs())
    remote_page.click(".remote-serverless-models")
    remote_page.wait("return document.querySelector('.remote-serverless-models').innerText.includes('skip')")
    remote_page.js("app.queuePrompt(0, 1, ['9'])")
    sent = remote_page.wait_jobs(before, 1)[0]["input"]
    assert sent["partial_execution_targets"] == ["9"]
    assert sent["skip_repo_list"] is True
    remote_page.wait("return !document.querySelector('.remote-serverless-models').innerText.includes('skip')")
    remote_page.wait_idle()


def test_cancel(remote_page):
    before = len(remote_page.jobs())
    remote_page.load(steps=300)
    remote_page.queue()
    remote_page.wait("return window.__seen.strokes[arguments[0]]", SAMPLER)
    remote_page.js("app.extensionManager.command.execute('Comfy.Interrupt')")
    assert remote_page.wait_jobs(before, 1)[0]["status"] == "CANCELLED"
    remote_page.wait_idle()
    assert remote_page.js("return app.graph.nodes.filter((n) => n.strokeStyles?.running?.call(n)?.color).length") == 0
    remote_page.load()
    remote_page.queue()
    assert remote_page.wait_jobs(before + 1, 1)[0]["status"] == "COMPLETED"
    remote_page.wait_idle()


def test_a_missing_model_marks_its_node(remote_page):
    before = len(remote_page.jobs())
    remote_page.load(checkpoint=LOCAL_ONLY)
    remote_page.queue()
    assert remote_page.wait_jobs(before, 1)[0]["status"] == "FAILED"
    remote_page.wait("return String(app.lastExecutionError?.node_id) === arguments[0]", str(LOADER))
    assert "MODEL_MISSING" in remote_page.js("return app.lastExecutionError.exception_message")
    remote_page.wait("return /MODEL_MISSING|Load Checkpoint failed/.test(document.body.innerText)")
    red = "const n = app.graph.getNodeById(arguments[0]); return n.strokeStyles?.executionError?.call(n)?.color"
    remote_page.wait(red, LOADER)
    remote_page.wait_idle()


def test_the_page_is_reloaded_in_the_middle(remote_page):
    before = len(remote_page.jobs())
    steps = remote_page.steps(2)  # the job still has to run when the page is back
    remote_page.load(steps=steps)
    remote_page.queue()
    remote_page.wait("return window.__seen.strokes[arguments[0]]", SAMPLER)
    remote_page.driver.refresh()
    remote_page.come_back(steps=steps)
    remote_page.wait("return document.querySelector('.remote-serverless-status')")
    remote_page.wait(
        "const n = app.graph.getNodeById(arguments[0]); return n.strokeStyles?.running?.call(n)?.color", SAMPLER
    )
    assert remote_page.wait_jobs(before, 1)[0]["status"] == "COMPLETED"
    remote_page.wait_picture(SAVE)
    remote_page.wait_idle()


def test_the_tab_is_closed_in_the_middle(remote_page):
    before, files = len(remote_page.jobs()), len(remote_page.local.files("output"))
    steps = remote_page.steps(1)  # a job that ends before has shown its picture in the old tab
    remote_page.load(steps=steps)
    remote_page.queue()
    remote_page.wait("return window.__seen.strokes[arguments[0]]", SAMPLER)
    old = remote_page.driver.current_window_handle
    remote_page.driver.switch_to.new_window("tab")
    new = remote_page.driver.current_window_handle
    remote_page.driver.switch_to.window(old)
    remote_page.driver.close()
    remote_page.driver.switch_to.window(new)
    assert remote_page.wait_jobs(before, 1)[0]["status"] == "COMPLETED"
    wait_until(lambda: len(remote_page.local.files("output")) == files + 1)
    remote_page.driver.get(remote_page.local.url)
    remote_page.come_back(steps=steps)
    remote_page.wait_picture(SAVE)


def test_the_local_server_is_restarted_in_the_middle(remote_page):
    before, files = len(remote_page.jobs()), len(remote_page.local.files("output"))
    remote_page.load(steps=40)
    remote_page.queue()
    remote_page.wait("return window.__seen.strokes[arguments[0]]", SAMPLER)
    remote_page.local.restart()
    assert remote_page.wait_jobs(before, 1)[0]["status"] == "COMPLETED"
    wait_until(lambda: len(remote_page.local.files("output")) == files + 1)
    remote_page.wait_picture(SAVE)
    time.sleep(1)
    assert len(remote_page.local.files("output")) == files + 1


def test_auto_queue_asks_first(remote_page):
    before = len(remote_page.jobs())
    remote_page.js(
        "const found = app.extensionManager.queueSettings; const settings = found.value ?? found;"
        "window.__asked = [];"
        "app.extensionManager.dialog.confirm = async (question) => (window.__asked.push(question), false);"
        "settings.mode = 'instant';"
    )
    remote_page.js("app.extensionManager.command.execute('Comfy.QueuePrompt')")
    assert "money" in remote_page.wait("return window.__asked[0]?.message")
    remote_page.wait(
        "const found = app.extensionManager.queueSettings; return (found.value ?? found).mode === 'disabled'"
    )
    assert len(remote_page.jobs()) == before


def test_off_runs_on_this_machine(remote_page):
    before = len(remote_page.jobs())
    remote_page.toggle(on=False)
    remote_page.queue()
    remote_page.wait_picture(SAVE)
    history = requests.get(remote_page.local.url + "/history", timeout=10).json()
    assert json.dumps(history).count("execution_success") >= 1
    assert len(remote_page.jobs()) == before
