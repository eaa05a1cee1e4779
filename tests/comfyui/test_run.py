"""The state of a prompt, as ComfyUI's events alone report it."""

from __future__ import annotations

from typing import Any

import pytest

from worker.comfyui.history import cached_nodes
from worker.comfyui.run import PromptRun


def run_after(*events: tuple[str, dict[str, Any]]) -> PromptRun:
    run = PromptRun(deadline=0.0, generation=1)
    for kind, data in events:
        run.on_event({"type": kind, "data": {"prompt_id": run.prompt_id, **data}})
    return run


def test_the_nodes_that_did_not_run_are_those_that_the_event_names():
    assert run_after(("execution_cached", {"nodes": ["1", 2]})).cached_by_events == {"1", "2"}
    assert run_after(("execution_cached", {"nodes": []})).cached_by_events == frozenset()


@pytest.mark.parametrize("events", [(), (("execution_cached", {}),), (("execution_cached", {"nodes": 5}),)])
def test_without_a_readable_event_nothing_is_known_of_the_cache(events):
    assert run_after(*events).cached_by_events is None


@pytest.mark.parametrize("named", [True, False])
def test_the_history_made_of_events_tells_what_was_cached_only_where_an_event_named_it(named):
    cached = [("execution_cached", {"nodes": ["1"]})] if named else []
    history = run_after(*cached, ("execution_success", {})).history_from_events()
    assert cached_nodes(history) == ({"1"} if named else None)


def test_another_submission_forgets_the_events_of_the_first():
    run = run_after(("execution_cached", {"nodes": ["1"]}), ("executed", {"node": "1", "output": {}}))
    run.begin_rerun()
    assert (run.cached_by_events, run.outputs, run.final_event) == (None, {}, None)
