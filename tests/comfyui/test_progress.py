"""ComfyUI's events become the progress of the contract; no change is sent twice."""

from __future__ import annotations

import json
from pathlib import Path

from worker.comfyui.progress import PREVIEW_LIMIT_BYTES, THUMBNAILS_LIMIT_CHARS, JobProgress
from worker.sites.types import FileProgress

RECORDING = Path(__file__).parents[1] / "protocol" / "recordings" / "sampler_with_previews.json"


def recorded() -> tuple[dict, list[dict]]:
    recording = json.loads(RECORDING.read_text())
    events = [frame["text"] for frame in recording["websocket"] if "text" in frame]
    return recording["http"][0]["request"]["body"]["prompt"], events


def progress(prompt: dict, *, with_previews: bool = False) -> JobProgress:
    return JobProgress(prompt, with_previews=with_previews, changed=lambda: None)


def test_a_recorded_sampler_run_is_told_step_by_step():
    prompt, events = recorded()
    job = progress(prompt)
    messages, percents = [], []
    for event in events:
        job.on_event(event)
        update = job.pop_update()
        messages.append(update.get("message"))
        percents.append(update.get("percent"))
    assert [message for message in dict.fromkeys(messages) if message and message.startswith("KSampler ")] == [
        "KSampler 1/4",
        "KSampler 2/4",
        "KSampler 3/4",
        "KSampler 4/4",
    ]
    rising = [percent for percent in percents if percent is not None]
    assert rising == sorted(rising)
    assert rising[0] == 0


def test_only_changed_nodes_are_given_and_none_is_lost_when_nobody_takes_for_a_while():
    prompt, events = recorded()
    job = progress(prompt)
    given: dict = {}
    for number, event in enumerate(events):
        job.on_event(event)
        if number % 7 == 0:
            given.update(job.pop_update().get("nodes", {}))
    given.update(job.pop_update().get("nodes", {}))
    assert "nodes" not in job.pop_update()
    assert set(given) == set(prompt)
    assert all(node["state"] == "finished" for node in given.values())


def test_outputs_so_far_are_all_there_each_time():
    prompt, events = recorded()
    job = progress(prompt)
    for event in events:
        job.on_event(event)
    assert [item["node"] for item in job.pop_update()["executed"]] == ["9"]
    assert [item["node"] for item in job.pop_update()["executed"]] == ["9"]


def test_downloads_have_bytes_and_a_percentage_when_all_sizes_are_known():
    job = progress({})
    job.set_phase("starting", "ComfyUI is starting")
    job.set_models([FileProgress("a", 10, 100), FileProgress("b", 40, 100)])
    update = job.pop_update()
    assert (update["phase"], update["percent"]) == ("models", 25.0)
    assert update["models"][1] == {"name": "b", "bytes": 40, "total": 100}
    job.set_models([FileProgress("a", 10, None)])
    assert job.pop_update()["percent"] is None


def test_a_late_word_of_a_download_does_not_turn_a_later_phase_back():
    job = progress({})
    job.set_phase("queued", "Handed to ComfyUI")
    job.set_models([FileProgress("a", 10, 100)])
    assert job.pop_update()["phase"] == "queued"


def test_a_preview_is_given_once_and_only_when_asked_for_and_small():
    preview = {"type": "worker.preview", "data": {"image": b"\xff\xd8jpeg", "node": "3"}}
    asked, silent = progress({}, with_previews=True), progress({})
    for job in (asked, silent):
        job.on_event(preview)
    assert asked.pop_update()["preview"] == {"node": "3", "jpeg_b64": "/9hqcGVn"}
    assert "preview" not in asked.pop_update()
    assert "preview" not in silent.pop_update()
    asked.on_event({"type": "worker.preview", "data": {"image": b"x" * (PREVIEW_LIMIT_BYTES + 1)}})
    assert "preview" not in asked.pop_update()


def test_cached_nodes_count_as_done():
    prompt, _ = recorded()
    job = progress(prompt)
    job.on_event({"type": "execution_start", "data": {"prompt_id": "p"}})
    job.on_event({"type": "execution_cached", "data": {"nodes": list(prompt)}})
    assert job.pop_update()["percent"] == 100.0


def test_a_thumbnail_is_given_in_two_updates_and_no_more():
    news: list[bool] = []
    job = JobProgress({}, with_previews=True, changed=lambda: news.append(True))
    job.add_thumbnail("9", 0, b"\xff\xd8jpeg")
    wanted = [{"node": "9", "index": 0, "jpeg_b64": "/9hqcGVn"}]
    assert job.pop_update()["thumbnails"] == wanted
    assert len(news) == 2, "the second update goes out although nothing else has changed"
    assert job.pop_update()["thumbnails"] == wanted
    assert "thumbnails" not in job.pop_update()
    assert len(news) == 2


def test_a_batch_of_thumbnails_is_spread_over_updates_in_order():
    job = progress({}, with_previews=True)
    for index in range(11):
        job.add_thumbnail("9", index, bytes(PREVIEW_LIMIT_BYTES))
    given: list[int] = []
    while thumbnails := job.pop_update().get("thumbnails"):
        assert sum(len(thumbnail["jpeg_b64"]) for thumbnail in thumbnails) <= THUMBNAILS_LIMIT_CHARS
        given += [thumbnail["index"] for thumbnail in thumbnails]
    assert list(dict.fromkeys(given)) == list(range(11))
    assert all(given.count(index) == 2 for index in range(11))


def test_odd_values_of_a_custom_node_count_as_nothing_done():
    job = progress({"1": {"class_type": "A", "inputs": {}}, "2": {"class_type": "B", "inputs": {}}})
    job.on_event({"type": "execution_cached", "data": {"nodes": 5}})
    for odd in (5, {"1": 5}, {"1": {"value": "x", "max": []}}, {"1": {"value": 10**400, "max": "nan"}}):
        job.on_event({"type": "progress_state", "data": {"nodes": odd}})
    job.on_event({"type": "progress_state", "data": {"nodes": {"2": {"value": 1, "max": 2}}}})
    job.on_event({"type": "executing", "data": {"node": "2"}})
    assert job.pop_update()["percent"] == 25.0
