"""The prompt that is sent: without the list, without what works only here, and never more than was chosen."""

from __future__ import annotations

import pytest

from client.sending.prompt import PromptError, drop_local_nodes, take_repo_list, targets_of
from tests.client.conftest import PROMPT
from tests.client.support import node


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
