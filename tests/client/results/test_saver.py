"""Results are saved once, under the graph's own names, and nothing else is overwritten."""

from __future__ import annotations

import contextlib
import dataclasses

from client.jobs import RemoteJob, Request
from client.results import saver as results
from client.results.saver import ResultSaver
from tests.client.conftest import PROMPT
from tests.client.endpoint import b64, completed, picture, png
from tests.client.support import a_job, node, of


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


def test_odd_parts_of_a_result_do_not_keep_it_from_being_saved(tmp_path):
    def save_path(prefix, root, width, height):
        return root, "x", 1, "", prefix

    folders = {"output": tmp_path, "temp": tmp_path / "temp"}
    job = RemoteJob("id", 1, "tab", "https://api.example/v2/x", Request(PROMPT, {}))
    entry = {**picture(), "node_id": ["9"], "metadata": {"text": "half a \ud800"}}
    assert (
        ResultSaver(folders, save_path, None, lambda job: None).save(job, {"images": [entry], "warnings": True}) == []
    )
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".png"]


def test_pictures_reach_save_and_preview_under_the_graphs_own_name(ready, endpoint):
    endpoint.statuses = [completed(picture(color=(1, 1, 1)), picture(color=(2, 2, 2)))]
    frames, _ = ready.watch()
    shown = {data["node"]: data["output"]["images"] for data in of(frames, "executed")}
    assert shown["9"] == shown["10"]
    assert [image["subfolder"] for image in shown["9"]] == ["sub", "sub"]
    names = [image["filename"] for image in shown["9"]]
    assert all(name.startswith("mine_0") for name in names)
    for name, color in zip(names, ((1, 1, 1), (2, 2, 2)), strict=True):
        assert (ready.comfy.base / "output" / "sub" / name).read_bytes() == png(color)
        assert (ready.comfy.base / "remote_results" / name).read_bytes() == png(color)


def test_the_official_workers_answer_is_understood(ready, endpoint):
    entry = {"filename": "ComfyUI_00001_.png", "type": "base64", "data": b64(png((5, 5, 5)))}
    endpoint.statuses = [{"status": "COMPLETED", "output": {"images": [entry]}}]
    frames, _ = ready.watch()
    assert {data["node"] for data in of(frames, "executed")} == {"9", "10"}


def test_a_job_that_only_shows_a_text_is_done(ready, endpoint):
    text = {"type": "text", "node_id": "7", "filename": "node_7_00001_.txt", "b64": b64(b"a poem"), "text": "a poem"}
    endpoint.statuses = [{"status": "COMPLETED", "output": {"images": [], "files": [text]}}]
    frames, prompt_id = ready.watch()
    assert [data["output"] for data in of(frames, "executed")] == [{"text": ["a poem"]}]
    assert ready.job(prompt_id)["state"] == "done"
