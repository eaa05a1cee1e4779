"""Which files travel with a job, and which of them by link."""

from __future__ import annotations

from client.sending import input_files as inputs
from client.sending.input_files import LINK_BYTES, choose_linked
from tests.client.support import node


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


def test_as_few_files_as_can_be_go_by_link_and_none_while_all_fit():
    sizes = {"a": 4_000_000, "b": 7_000_000, "c": 2_000_000, "d": 100}
    assert choose_linked(sizes, 14_000_000) == []
    assert choose_linked(sizes, 10_000_000) == ["b"]
    assert choose_linked(sizes, 5_000_000) == ["b", "a"]
    assert choose_linked(sizes, 3 * LINK_BYTES + 100) == ["b", "a", "c"]
    assert choose_linked(sizes, 0) == ["b", "a", "c"], "a link would be larger than the file"
