"""A page of attacks: other websites, other machines, other people's names and files, and whoever is after the key."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import requests

from tests.client.conftest import HEADER, PROMPT
from tests.client.endpoint import KEY, b64, completed, picture, png
from tests.support.simulator_process import Engine

ROUTES = [
    ("POST", "/remote/run"), ("GET", "/remote/jobs"), ("POST", "/remote/attach"), ("POST", "/remote/cancel"),
    ("GET", "/remote/config"), ("POST", "/remote/config"), ("POST", "/remote/test"),
]  # fmt: skip
ALL = [*ROUTES, ("POST", "/remote/save")]


def ask(local, method, path, headers, body=b"{}"):
    return requests.request(method, local.url + path, data=body, headers=headers, timeout=10)


@pytest.mark.parametrize(("method", "path"), ALL)
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
     {"Host": "evil.example", "Origin": "http://evil.example"}, {"Host": "evil.example"},
     {"Host": "127.0.0.1.evil.example"}, {"Host": "10.1.2.3"}, {"Host": "["}],
)  # fmt: skip
def test_other_websites_are_refused(local, method, path, headers):
    sent = {"Content-Type": "application/json", **HEADER, **headers}
    answer = ask(local, method, path, sent)
    assert answer.status_code in (400, 403)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_but_the_sink_is_for_curl(local, method, path):
    assert ask(local, method, path, {"Content-Type": "application/json"}).status_code == 403


@pytest.mark.parametrize("path", [path for method, path in ALL if method == "POST"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_can_send_is_refused(local, path, kind):
    answer = ask(local, "POST", path, {"Content-Type": kind, **HEADER}, b'{"images": []}')
    assert answer.status_code == 415


def test_changes_are_never_made_by_get(local):
    for path in ("/remote/save", "/remote/run", "/remote/cancel", "/remote/test"):
        assert requests.get(local.url + path, headers=HEADER, timeout=10).status_code in (404, 405)


def test_the_own_page_is_served(local):
    origin = {"Origin": local.url, "Sec-Fetch-Site": "same-origin"}
    assert local.get("/remote/config", **origin).ok
    assert local.post("/remote/save", {"images": []}, **origin).json() == {"saved": []}


def test_cors_wide_open_opens_nothing_of_ours(tmp_path):
    packs = tmp_path / "custom_nodes"
    from tests.browser.local_comfy import CLIENT

    shutil.copytree(CLIENT, packs / "pack", ignore=shutil.ignore_patterns("__pycache__"))
    with Engine(base=tmp_path, cors=True) as engine:
        for method, path in ALL:
            sent = {"Content-Type": "application/json", "Origin": "https://evil.example", **HEADER}
            assert requests.request(method, engine.url + path, data=b"{}", headers=sent, timeout=10).status_code == 403
        preflight = requests.options(
            engine.url + "/remote/config", headers={"Origin": "https://evil.example"}, timeout=10
        )
        assert "x-remote-serverless" not in preflight.headers.get("Access-Control-Allow-Headers", "").lower()


def test_other_machines_may_look_but_not_change(tmp_path):
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    from tests.browser.local_comfy import CLIENT

    shutil.copytree(CLIENT, tmp_path / "custom_nodes" / "pack", ignore=shutil.ignore_patterns("__pycache__"))
    with Engine("--listen", "0.0.0.0", base=tmp_path, cors=False) as engine:
        url = f"http://{address}:{engine.port}"
        assert requests.get(url + "/remote/config", headers=HEADER, timeout=10).ok
        body = {"endpoint": "https://evil.example/v2/abc"}
        for path in ("/remote/config", "/remote/test"):
            answer = requests.post(url + path, json=body, headers=HEADER, timeout=10)
            assert answer.status_code == 403
            assert "on the machine" in answer.json()["error"]
        forwarded = {**HEADER, "X-Forwarded-For": "1.2.3.4"}
        assert requests.post(engine.url + "/remote/config", json=body, headers=forwarded, timeout=10).status_code == 403


def own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") or address == "0.0.0.0" else address


# -- files --


@pytest.mark.parametrize(
    "name",
    ["../../id_rsa", "../secret.png", "/etc/passwd", "..\\..\\id_rsa", "../../id_rsa [output]", "/etc/passwd [temp]",
     "link.png", "sub/../../secret.png", "x\x00.png", "."],
)  # fmt: skip
def test_a_workflow_cannot_name_files_of_elsewhere(ready, endpoint, name):
    base = ready.comfy.base
    (base / "secret.png").write_bytes(png())
    link = base / "input" / "link.png"
    if not link.is_symlink():
        link.symlink_to(base / "secret.png")
    prompt = {**PROMPT, "1": {"class_type": "LoadImage", "inputs": {"image": name}}}
    answer = ready.run(prompt)
    assert answer.status_code == 400
    assert answer.json()["node_errors"]["1"]["errors"][0]["extra_info"]["input_name"] == "image"
    assert endpoint.paths("run") == []


def test_hostile_names_and_contents_from_the_worker(ready, endpoint):
    before = set(ready.comfy.files("."))
    entries = [
        picture("77", filename="../../../evil.png", subfolder="../../.."),
        picture("9", filename="/etc/evil.sh"),
        {"b64": b64(b"<svg onload=alert(1)>"), "filename": "x.svg", "node_id": "9"},
        {"b64": b64(b"<html>"), "filename": "x.txt", "node_id": "9"},
        {"b64": "???", "filename": "x.png", "node_id": "9"},
        picture("78", filename="x.png", type="input"),
    ]
    endpoint.statuses = [completed(*entries)]
    _, prompt_id = ready.watch()
    job = ready.job(prompt_id)
    assert job["state"] == "done"
    assert "not saved" in job["message"]
    new = set(ready.comfy.files(".")) - before
    pictures = {path for path in new if path.startswith(("output/", "remote_results/"))}
    assert len(pictures) == 6
    assert all(path.endswith(".png") and ".." not in path for path in pictures)
    assert {path for path in new - pictures if not path.startswith("user/")} <= {"engine.log"}


# -- the key --


def test_the_key_is_in_no_answer_file_or_log(ready, endpoint):
    endpoint.statuses = [completed(picture())]
    endpoint.refuse["health"] = [(500, {}, json.dumps({"error": f"bad header Bearer {KEY}"}))]
    assert KEY not in ready.post("/remote/test", {}).text
    ready.watch(extra_data={"extra_pnginfo": {"workflow": {"id": "x"}}, "api_key_comfy_org": "comfy-secret"})
    for path in (
        "/remote/config",
        "/remote/jobs",
        "/settings",
        "/userdata?dir=.",
        "/history",
        "/system_stats",
        "/queue",
    ):
        text = ready.get(path).text
        assert KEY not in text and "comfy-secret" not in text
    for path in (
        "/userdata/..%2F__remote_serverless%2Fkey.json",
        "/view?filename=key.json&subfolder=../user/__remote_serverless",
    ):
        assert KEY not in ready.get(path).text
    private = ready.comfy.base / "user" / "__remote_serverless"
    holders = [path for path in ready.comfy.base.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holders == [private / "key.json"]
    assert (private / "key.json").stat().st_mode & 0o777 == 0o600
    assert (private / "jobs.sqlite").stat().st_mode & 0o077 == 0
    assert "comfy-secret" not in json.dumps(endpoint.paths("run"))
    assert KEY not in ready.comfy.engine.log_text()


def test_another_endpoint_does_not_get_the_stored_key(ready, endpoint):
    from tests.client.endpoint import Endpoint

    with Endpoint() as thief:
        ready.post("/remote/test", {"endpoint": thief.base})
        assert ready.post("/remote/config", {"endpoint": thief.base}).json()["key"] == {
            "configured": False,
            "source": None,
        }
        answer = ready.run()
        assert answer.status_code == 400
        assert "API key" in answer.json()["error"]["message"]
        assert thief.seen == []


def test_redirects_are_not_followed(ready, endpoint):
    from tests.client.endpoint import Endpoint

    with Endpoint() as elsewhere:
        endpoint.refuse["run"] = [(307, {"Location": elsewhere.base + "/run"}, "")]
        answer = ready.run()
        assert answer.status_code == 400
        assert "redirect" in answer.json()["error"]["message"]
        assert elsewhere.seen == []


def test_text_of_others_stays_text(ready, endpoint):
    """A worker's text is passed on unchanged, and the page only ever puts it into text nodes."""
    from tests.browser.local_comfy import CLIENT

    endpoint.statuses = [{"status": "FAILED", "error": "NODE_FAILED: <img src=x onerror=alert(1)>"}]
    _, prompt_id = ready.watch()
    assert ready.job(prompt_id)["error"] == "NODE_FAILED: <img src=x onerror=alert(1)>"
    for script in (CLIENT / "web").glob("*.js"):
        source = script.read_text()
        assert not any(
            word in source for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
        )


def test_a_refused_job_leaves_nothing_behind(ready, endpoint):
    def listed():
        return {job["prompt_id"] for job in ready.get("/remote/jobs").json()["jobs"]}

    before = listed()
    endpoint.refuse["run"] = [(401, {}, "")]
    assert ready.run().status_code == 400
    assert listed() <= before
