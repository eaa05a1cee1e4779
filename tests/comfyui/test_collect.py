"""A prompt's files are found where they lie, and those that another caller's job may have written are left out."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from worker.comfyui.collect import Collected, Collector
from worker.comfyui.progress import JobProgress
from worker.comfyui.run import PromptRun
from worker.errors import WorkerError
from worker.results.outputs import TEXT, Output, OutputFile

PROMPT = {"1": {"class_type": "SaveVideo", "inputs": {}}, "2": {"class_type": "SaveVideo", "inputs": {}}}
FTYP = b"\0\0\0\x20ftypisom"
FIRST, SECOND = Output("1", "a.mp4", "", "output"), Output("2", "b.mp4", "", "output")


class View:
    """The part of ComfyUI's client that fetches files."""

    def __init__(self, **files: bytes) -> None:
        self.files = files

    async def view(self, filename: str, subfolder: str, kind: str) -> bytes | None:
        return self.files.get(filename.partition(".")[0])


def collector(folder=None, **files: bytes) -> Collector:
    return Collector(SimpleNamespace(external=False, folder=folder, api=View(**files)))


def collect(collector: Collector, *outputs: Output, key: str = "mine", cached: tuple[str, ...] = ()) -> Collected:
    run = PromptRun(deadline=0.0, generation=1, content_key=key, cached=frozenset(cached))
    return asyncio.run(collector.collect(run, PROMPT, list(outputs)))


def test_a_file_is_taken_from_this_disk_before_comfyui_is_asked(tmp_path):
    on_disk = SimpleNamespace(find=lambda output: tmp_path / "a.mp4" if output is FIRST else None)
    found = collect(collector(on_disk, a=b"not this", b=FTYP), FIRST, SECOND)
    assert found.files == [OutputFile(FIRST, tmp_path / "a.mp4"), OutputFile(SECOND, data=FTYP)]
    assert found.complete


def test_a_text_needs_no_file_and_may_have_any_characters():
    text = Output("1", "node_1_00001_.txt", "", TEXT, "a\ud800b")
    assert collect(collector(), text).files == [OutputFile(text, data=b"a?b")]


def test_a_file_that_is_gone_is_missing_and_the_others_are_returned_with_a_warning():
    found = collect(collector(b=FTYP), FIRST, SECOND)
    assert (found.missing, found.complete) == ([FIRST], False)
    assert found.or_error().files == [OutputFile(SECOND, data=FTYP)]
    assert found.warnings == ["a.mp4 of node 1 could not be read."]


def test_when_every_file_is_gone_that_is_an_error():
    with pytest.raises(WorkerError, match=r"NO_OUTPUT.* cannot be read"):
        collect(collector(), FIRST).or_error()


def test_a_prompt_that_names_no_file_is_an_error():
    with pytest.raises(WorkerError, match="NO_OUTPUT"):
        collect(collector())


def test_a_cached_file_is_returned_only_to_the_job_whose_texts_it_carries():
    files = collector(a=FTYP, b=FTYP)
    assert collect(files, FIRST, key="earlier").complete
    again = collect(files, FIRST, key="earlier", cached=("1",))
    assert (again.complete, again.from_cache) == (True, {"1"})
    other = collect(files, FIRST, SECOND, cached=("1",))
    assert other.to_rerun == {"1"}
    assert [file.output for file in other.files] == [SECOND]
    assert other.or_error().warnings == ["The files of node 1 could not be saved for this job."]


def test_a_file_that_was_left_out_stays_the_earlier_jobs():
    files = collector(a=FTYP)
    collect(files, FIRST, key="earlier")
    assert not collect(files, FIRST, cached=("1",)).complete
    assert collect(files, FIRST, key="earlier", cached=("1",)).complete


def test_a_cached_node_whose_inner_files_comfyui_does_not_list_runs_again():
    files, inner = collector(a=FTYP), Output("1.0.0.1", "a.mp4", "", "output")
    collect(files, inner)
    assert collect(files, cached=("1",)).to_rerun == {"1"}


def test_the_phase_says_how_many_files_there_are():
    progress = JobProgress({}, with_previews=False, changed=lambda: None)
    run = PromptRun(deadline=0.0, generation=1, progress=progress)
    asyncio.run(collector(a=FTYP, b=FTYP).collect(run, PROMPT, [FIRST, SECOND]))
    update = progress.pop_update()
    assert (update["phase"], update["message"]) == ("collecting", "Collecting 2 files")
