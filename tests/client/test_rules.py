"""The rules in between, each by itself: addresses, keys, the prompt's preparation, estimates, expiry, saving once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from types import SimpleNamespace

import pytest

from client.comfyui.events import TabEvents
from client.config_routes import health_message
from client.following.follower import Follower
from client.jobs import JobTable, RemoteJob, Request
from client.results import saver as results
from client.results.node_outputs import outputs_of
from client.results.saver import ResultSaver
from client.runpod import status as answers
from client.runpod.client import EndpointError
from client.sending import estimate
from client.sending import input_files as inputs
from client.sending.estimate import Sampler, position, samplers
from client.sending.prompt import PromptError, drop_local_nodes, take_repo_list, targets_of
from client.settings.config import Config, ConfigError, parse_endpoint
from tests.client.conftest import PROMPT
from tests.client.endpoint import completed, picture, png


def node(kind, title=None, **inputs):
    return {"class_type": kind, "inputs": inputs, **({"_meta": {"title": title}} if title else {})}


def a_job(**more):
    return RemoteJob("id-1", 1, "tab", "http://127.0.0.1/v2/ep", Request(PROMPT, {}), runpod_id="r-1", **more)


# -- the endpoint and its key --


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("abc123def456", "https://api.runpod.ai/v2/abc123def456"),
        (" https://api.runpod.ai/v2/abc123/run ", "https://api.runpod.ai/v2/abc123"),
        ("https://api.runpod.ai/v2/abc123", "https://api.runpod.ai/v2/abc123"),
        ("https://api.runpod.ai/v2/abc123/runsync/", "https://api.runpod.ai/v2/abc123"),
        ("http://127.0.0.1:8000/v2/local", "http://127.0.0.1:8000/v2/local"),
        ("http://[::1]:8000/v2/local/run", "http://[::1]:8000/v2/local"),
        ("http://192.168.1.7:8000/v2/box", "http://192.168.1.7:8000/v2/box"),
        ("https://x-8000.proxy.runpod.net/v2/pod", "https://x-8000.proxy.runpod.net/v2/pod"),
        ("", ""),
    ],
)
def test_what_a_person_pastes_is_understood(text, base):
    assert parse_endpoint(text) == base


@pytest.mark.parametrize(
    "text",
    ["http://example.com/v2/abc", "ftp://127.0.0.1/v2/abc", "https://user:pw@api.runpod.ai/v2/abc", "https://x/v2/abc?key=1",
     "https://api.runpod.ai/", "https://api.runpod.ai/v2/../../x", "https://[", "a b", "https://x/v2/abc#f",
     "javascript:alert(1)"],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(text):
    with pytest.raises(ConfigError):
        parse_endpoint(text)


def test_a_key_goes_to_its_own_origin_only(tmp_path, monkeypatch):
    config = Config(tmp_path / "private")
    runpod, other, here = (
        parse_endpoint(x) for x in ("abc123", "https://evil.example/v2/abc", "http://127.0.0.1:1/v2/abc")
    )
    config.set_key("rpa_one", runpod)
    assert [config.key_for(base) for base in (runpod, other, here)] == ["rpa_one", None, None]
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_env")
    assert [config.key_for(base) for base in (runpod, other, here)] == ["rpa_one", None, "rpa_env"]
    config.forget_key()
    assert config.key_source(runpod) == "environment"
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    for bad in ("", "a\nb", "é" * 8, "x" * 1000):
        with pytest.raises(ConfigError):
            config.set_key(bad, runpod)


def test_settings_outlive_damage(tmp_path):
    config = Config(tmp_path)
    config.change({"endpoint": "abc123", "ms_per_step": 250})
    assert Config(tmp_path).settings == config.settings
    (tmp_path / "settings.json").write_text('{"endpoint": 7')
    assert Config(tmp_path).settings.endpoint == ""
    for bad in ({"ms_per_step": 0}, {"ms_per_step": True}, {"previews": 1}, {"nonsense": 1}, {"endpoint": None}):
        with pytest.raises(ConfigError):
            config.change(bad)


# -- the prompt --


def test_the_repo_list_is_read_and_taken_out():
    prompt = {
        "1": node("Text", "repo_list", text="ckpt a"),
        "2": node("Show", value=["1", 0]),
        "3:7": node("T", "repo_list", s="b"),
    }
    left, text = take_repo_list(prompt, {})
    assert (left, text) == ({"2": node("Show", value="ckpt a")}, "ckpt a\nb")
    titled = {"nodes": [{"id": 5, "title": "repo_list"}, {"id": 6, "title": "Repo_List"}]}
    left, text = take_repo_list({"5": node("Text", text="x"), "6": node("Text", text="y")}, titled)
    assert (list(left), text) == (["6"], "x")
    assert take_repo_list({"1": node("Text", "my repo_list", text="x")}, None)[1] == ""
    with pytest.raises(PromptError) as problem:
        take_repo_list({"1": node("Text", "repo_list", text=["2", 0]), "2": node("Other")}, {})
    assert problem.value.body()["node_errors"]["1"]


def test_what_shows_local_results_stays_here():
    prompt = {"1": node("RemoteResults", count=1), "2": node("PreviewImage", images=["1", 0]), "3": node("SaveImage")}
    assert list(drop_local_nodes(prompt)) == ["3"]
    with pytest.raises(PromptError):
        drop_local_nodes({"1": node("RemoteResults")})


def test_chosen_targets_never_become_all():
    assert targets_of(None, PROMPT) is None
    assert targets_of([9, "99"], PROMPT) == ["9"]
    with pytest.raises(PromptError):
        targets_of(["99"], PROMPT)


# -- the estimate --


def test_samplers_are_found_in_their_order_with_their_steps():
    prompt = {
        "9": node("SaveImage", images=["2", 0]),
        "2": node("KSamplerAdvanced", steps=30, start_at_step=10, end_at_step=10000, latent_image=["1", 0]),
        "1": node("KSampler", steps=["7", 0]),
        "7": node("PrimitiveInt", value=12),
        "5": node("SamplerCustomAdvanced", sigmas=["6", 0], latent=["2", 0]),
        "6": node("BasicScheduler", steps=8),
        "8": node("KSamplerSelect", sampler_name="euler"),
    }
    assert samplers(prompt) == [Sampler("1", 12), Sampler("2", 20), Sampler("5", 8)]
    assert samplers(prompt, ["9"]) == [Sampler("1", 12), Sampler("2", 20)]
    loop = {"1": node("A", x=["2", 0]), "2": node("B", x=["1", 0])}
    assert sorted(estimate.execution_order(loop)) == ["1", "2"]


def test_the_estimate_never_claims_the_end():
    plan = [Sampler("1", 10), Sampler("2", 5)]
    assert position(plan, 0, 100).step == 0
    assert (position(plan, 950, 100).node_id, position(plan, 950, 100).step) == ("1", 9)
    assert (position(plan, 1200, 100).node_id, position(plan, 1200, 100).done) == ("2", ("1",))
    assert position(plan, 10**9, 100).step == 4
    assert position([], 5, 100) is None
    assert estimate.updated_ms_per_step(None, 1500, plan) == 100
    assert 100 < estimate.updated_ms_per_step(100, 3000, plan) < 200
    assert estimate.updated_ms_per_step(100, 3000, []) == 100


# -- expiry and loss --


class Silence:
    """A host, stage and table that take everything."""

    def __getattr__(self, _):
        return lambda *a, **k: None


def follower():
    return Follower(
        comfyui=Silence(),
        config=Silence(),
        table=Silence(),
        client=Silence(),
        events=Silence(),
        changed=lambda: None,
    )


def missing():
    return EndpointError("missing", "The endpoint does not know this job (404).")


def test_a_laptop_that_slept_past_the_result():
    job = a_job(state="running", last_seen=time.time() - 45 * 60)
    follower()._on_error(job, missing(), 1)
    assert (job.state, job.error_code) == ("failed", "EXPIRED")
    assert "30 minutes" in job.error and "45 minutes" in job.error


def test_a_job_that_vanishes_gets_some_grace():
    job, follow = a_job(state="queued", last_seen=time.time() - 20), follower()
    follow._on_error(job, missing(), 1)
    assert job.state == "queued"
    follow._on_error(job, missing(), 3)
    assert (job.state, job.error_code) == ("failed", "LOST")


@pytest.mark.parametrize("kind", ["network", "key", "server", "busy", "nonsense", "disk"])
def test_trouble_waits_longer_and_longer_and_never_gives_up(kind):
    job, follow = a_job(state="running", last_seen=time.time() - 10**6), follower()
    waits = [follow._on_error(job, EndpointError(kind, "It is so."), failures) for failures in (1, 2, 5, 60)]
    assert waits == sorted(waits) and waits[-1] == 30
    assert job.state == "running" and job.message


def test_cancelling_a_job_that_is_gone():
    job = a_job(state="running", last_seen=time.time(), cancel_wanted=True)
    follower()._on_error(job, missing(), 1)
    assert job.state == "cancelled"


def test_a_fault_of_our_own_does_not_end_the_following(monkeypatch):
    job, follow = a_job(), follower()
    looks = iter([ValueError("a bug"), None])

    async def check(job, _watch):
        if found := next(looks):
            raise found
        job.state = "done"
        return 0

    monkeypatch.setattr(follow, "_check", check)
    follow.pace = SimpleNamespace(retry_max=0.01)
    asyncio.run(follow.follow(job))
    assert job.state == "done"


# -- saving --


def numbered(prefix, folder, *_):
    return folder, prefix, 1, "", prefix


def a_saver(tmp_path, keep):
    folders = {name: tmp_path / name for name in ("output", "temp", "input")}
    return ResultSaver(folders, numbered, tmp_path / "remote_results", keep)


def test_a_result_is_saved_once_wherever_it_was_interrupted(tmp_path, monkeypatch):
    """Killed before, between and after the writes: told again, the same files are there, each once."""
    output = completed(picture(color=(1, 1, 1)), picture(color=(2, 2, 2)))["output"]
    for step in range(8):
        base, job, calls = tmp_path / str(step), a_job(), []

        class Killed(BaseException):
            pass

        def maybe_die(_job, calls=calls, step=step):
            calls.append(1)
            if len(calls) == step + 1:
                raise Killed

        with contextlib.suppress(Killed):
            a_saver(base, maybe_die).save(job, output)
        a_saver(base, lambda _: None).save(job, output)
        a_saver(base, lambda _: None).save(job, output)
        saved = sorted(path.read_bytes() for path in (base / "output").rglob("*.png"))
        assert saved == sorted([png((1, 1, 1)), png((2, 2, 2))])
        assert len(list((base / "remote_results").iterdir())) == 2
        assert len(job.outputs["9"]["images"]) == 2


def test_a_name_taken_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    job = a_job()
    real = results.write_once

    def someone_was_faster(path, data):
        monkeypatch.setattr(results, "write_once", real)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"theirs")
        return False

    monkeypatch.setattr(results, "write_once", someone_was_faster)
    a_saver(tmp_path, lambda _: None).save(job, completed(picture())["output"])
    files = sorted((tmp_path / "output" / "sub").iterdir())
    assert [path.read_bytes() for path in files] == [b"theirs", png()]


def test_the_table_survives_unreadable_rows(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    job = a_job()
    table.add(job)
    job.state = "running"
    table.save(job)
    table._db.execute("INSERT INTO jobs VALUES ('bad', 0, 0, '{', '{')")
    table.close()
    table = JobTable(tmp_path / "jobs.sqlite")
    assert table.load() == [job]
    table.close()


# -- the stage --


class Sink:
    def __init__(self):
        self.sent, self.is_local = [], False

    def send(self, event, data, client_id):
        self.sent.append((event, data.get("prompt_id")))

    def runs_locally(self, client_id):
        return self.is_local


def test_a_local_run_is_not_disturbed():
    sink, job = Sink(), a_job(state="running")
    events = TabEvents(sink)
    sink.is_local = True
    events.add(job)
    events.update_step(job, "3", 1, 4)
    assert sink.sent == []
    sink.is_local = False
    events.update_step(job, "3", 2, 4)
    assert [event for event, _ in sink.sent] == [
        "execution_start",
        "execution_cached",
        "executing",
        "progress_state",
        "progress",
    ]


def test_the_next_job_comes_to_the_front_when_one_ends():
    sink, one, two = Sink(), a_job(state="running"), a_job(state="queued")
    two.prompt_id, two.number = "id-2", 2
    events = TabEvents(sink)
    events.add(one)
    events.add(two)
    assert sink.sent[-1][1] == "id-1"
    two.state = "running"
    events.update_step(two, "3", 1, 4)
    assert all(prompt_id == "id-1" for _, prompt_id in sink.sent)
    sink.sent.clear()
    events.succeed(one, ["3", "9"])
    replayed = [event for event, prompt_id in sink.sent if prompt_id == "id-2"]
    assert replayed == ["execution_start", "execution_cached", "executing", "progress_state", "progress"]


# -- words --


def test_health_in_words():
    assert (
        health_message({"workers": {"idle": 2, "ready": 2, "running": 1}}) == "The endpoint answers: 3 workers ready."
    )
    said = health_message({"workers": {"initializing": 1, "throttled": 1}, "jobs": {"inQueue": 4}})
    assert "cold start" in said and "waiting for a GPU" in said and "4 jobs" in said
    assert health_message({}) == "The endpoint answers."


def test_progress_in_words():
    models = [{"name": "a", "bytes": 10**9, "total": 4 * 10**9}]
    assert (
        answers.phase_message({"phase": "models", "models": models})
        == "The worker is downloading models: 1.00 of 4.00 GB"
    )
    assert answers.phase_message({"phase": "starting"}) == "A worker is starting"
    assert answers.phase_message({"phase": "running", "message": "KSampler 7/20"}) == "KSampler 7/20"


# -- what nodes show --


def shown(files, prompt, texts=None):
    job = a_job(files=[{"index": n, "subfolder": "", "type": "output", **file} for n, file in enumerate(files)])
    return outputs_of(dataclasses.replace(job, request=Request(prompt, {})), texts or {})


def test_each_kind_is_shown_where_comfyuis_own_nodes_show_it():
    kinds = {
        "1": ("SaveVideo", "a.mp4"), "2": ("SaveWEBM", "b.webm"), "3": ("SaveAnimatedWEBP", "c.webp"),
        "4": ("SaveAudio", "d.flac"), "5": ("SaveAudioMP3", "e.mp3"), "6": ("SaveLatent", "f.latent"),
        "7": ("SaveGLB", "g.glb"), "8": ("SaveImage", "h.png"), "9": ("VHS_VideoCombine", "i.mp4"),
        "10": ("Other", "j.zip"),
    }  # fmt: skip
    prompt = {node_id: node(kind) for node_id, (kind, _) in kinds.items()}
    found = shown([{"node_id": node_id, "filename": name} for node_id, (_, name) in kinds.items()], prompt)

    def one(name, **more):
        return [{"filename": name, "subfolder": "", "type": "output", **more}]

    assert found == {
        "1": {"images": one("a.mp4"), "animated": [True]},
        "2": {"images": one("b.webm"), "animated": [True]},
        "3": {"images": one("c.webp"), "animated": [True]},
        "4": {"audio": one("d.flac")},
        "5": {"audio": one("e.mp3")},
        "6": {"latents": one("f.latent")},
        "7": {"3d": one("g.glb")},
        "8": {"images": one("h.png")},
        "9": {"gifs": one("i.mp4", format="video/mp4")},
    }


def test_previews_show_what_the_saver_beside_them_saved():
    prompt = {
        "1": node("SaveAudio", audio=["5", 0]), "2": node("PreviewAudio", audio=["5", 0]),
        "3": node("PreviewAudio", audio=["6", 0]), "4": node("SaveImage", images=["7", 0]),
        "8": node("PreviewImage", images=["7", 0]),
    }  # fmt: skip
    found = shown([{"node_id": "1", "filename": "a.flac"}, {"node_id": "4", "filename": "b.png"}], prompt)
    assert set(found) == {"1", "2", "4", "8"}
    assert found["2"] == found["1"] and found["8"] == found["4"]


def test_texts_are_shown_in_their_node_and_are_no_files(tmp_path):
    text = {"type": "text", "node_id": "7", "filename": "node_7_00001_.txt", "b64": "", "media_type": "text/plain"}
    output = {"images": [picture()], "files": [{**text, "text": "one"}, {**text, "text": "<b>two</b>"}]}
    job = a_job()
    assert a_saver(tmp_path, lambda _: None).save(job, output) == []
    assert job.outputs["7"] == {"text": ["one", "<b>two</b>"]}
    assert [path.suffix for path in (tmp_path / "output").rglob("*") if path.is_file()] == [".png"]


def test_a_latent_gets_the_name_that_its_node_asks_for(tmp_path):
    latent = {
        "b64": "AAAAAAAA",
        "filename": "ComfyUI_00007_.latent",
        "subfolder": "latents",
        "type": "output",
        "node_id": "7",
    }
    job = a_job()
    job = dataclasses.replace(job, request=Request({"7": node("SaveLatent", filename_prefix="mine/x")}, {}))
    a_saver(tmp_path, lambda _: None).save(job, {"files": [latent]})
    assert job.outputs == {"7": {"latents": [{"filename": "mine/x_00001_.latent", "subfolder": "", "type": "output"}]}}


# -- which files travel --


def test_what_a_node_chose_from_the_input_folder_travels_though_it_has_no_upload_button(tmp_path):
    for name in ("a.latent", "b.png", "model.safetensors", "unlisted.latent"):
        (tmp_path / name).write_bytes(b"x")
    specs = {
        "LoadLatent": {"required": {"latent": [["a.latent", "gone.latent"]]}},
        "Chooses": {"required": {"video": ("COMBO", {"options": ["b.png"]}), "model": (["model.safetensors"],)}},
    }
    prompt = {
        "1": node("LoadLatent", latent="a.latent"), "2": node("Chooses", video="b.png", model="model.safetensors"),
        "3": node("LoadLatent", latent="gone.latent"), "4": node("LoadLatent", latent="unlisted.latent"),
    }  # fmt: skip
    folders = dict.fromkeys(("input", "output", "temp"), tmp_path)
    found = inputs.find(prompt, folders, lambda kind: specs[kind])
    assert [(each.node_id, each.name, each.path.name) for each in found] == [
        ("1", "latent", "a.latent"),
        ("2", "video", "b.png"),
    ]
