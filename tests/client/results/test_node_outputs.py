"""Each result is shown where ComfyUI's own nodes show it."""

from __future__ import annotations

import dataclasses

from client.jobs import Request
from client.results.node_outputs import outputs_of
from tests.client.support import a_job, node


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
