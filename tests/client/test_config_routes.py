"""The Remote Config dialog's routes: what is tested before it is saved, and health in words."""

from __future__ import annotations

from client.config_routes import health_message
from tests.client.endpoint import KEY
from tests.client.support import configure_bucket
from tests.support.disk_s3 import DiskS3


def test_health_in_words():
    assert (
        health_message({"workers": {"idle": 2, "ready": 2, "running": 1}}) == "The endpoint answers: 3 workers ready."
    )
    said = health_message({"workers": {"initializing": 1, "throttled": 1}, "jobs": {"inQueue": 4}})
    assert "cold start" in said and "waiting for a GPU" in said and "4 jobs" in said
    assert health_message({}) == "The endpoint answers."


def test_no_endpoint_and_nobody_there(local, endpoint):
    local.post("/remote/config", {"endpoint": ""})
    assert "Remote Config" in local.run().json()["error"]["message"]
    local.post("/remote/config", {"endpoint": "http://127.0.0.1:9/v2/nobody", "api_key": KEY})
    said = local.run().json()["error"]["message"]
    assert "Nothing answers at http://127.0.0.1:9. Is `make endpoint` running?" in said
    assert local.post("/remote/test", {}).json()["message"] == said


def test_the_test_button_says_what_is_so(local, endpoint):
    typed = {"endpoint": endpoint.base + "/run", "api_key": KEY}
    assert "1 starting" in local.post("/remote/test", typed).json()["message"]
    assert "refused the API key" in local.post("/remote/test", {**typed, "api_key": "other-key"}).json()["message"]
    assert "endpoint's id" in local.post("/remote/test", {**typed, "endpoint": "ftp://x"}).json()["message"]


def test_half_a_bucket_is_said_where_it_is_needed(ready, tmp_path):
    with DiskS3(tmp_path) as bucket:
        configure_bucket(ready, bucket)
        answer = ready.post("/remote/config", {"bucket": {"address": "https://s3.example", "name": "pics"}})
        assert answer.status_code == 400
        assert "access key id is missing" in answer.json()["error"]
        assert ready.post("/remote/test", {}).json()["message"].endswith("The bucket works.")
    ready.post("/remote/config", {"forget_bucket": True})
