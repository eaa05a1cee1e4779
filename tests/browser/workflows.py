"""A text-to-image graph in the UI's format, with a text node titled ``repo_list`` that only this machine has."""

from __future__ import annotations

import copy
from typing import Any

WORKFLOW_ID = "11111111-1111-4111-8111-111111111111"
SAMPLER, LOADER, SAVE, PREVIEW, LIST = 3, 4, 9, 10, 12
SECOND_SAMPLER, SECOND_SAVE = 13, 19

TEXT_NODE = '''
import nodes

class TextNode:
    CATEGORY = "text"
    RETURN_TYPES = ("STRING",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"multiline": True})}}

    def give(self, text):
        return (text,)


class Loader:
    """Frontend 1.27 fails to build any list of models when one of the standard loaders is not known at all."""

    CATEGORY = "loaders"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": (["none"],)}}


_LOADERS = (
    "ImageOnlyCheckpointLoader", "LoraLoader", "LoraLoaderModelOnly", "VAELoader", "ControlNetLoader", "UNETLoader",
    "UpscaleModelLoader", "StyleModelLoader", "GLIGENLoader",
)
NODE_CLASS_MAPPINGS = {"TextMultilineOfThisMachine": TextNode}
for _name in _LOADERS:
    if _name not in nodes.NODE_CLASS_MAPPINGS:
        NODE_CLASS_MAPPINGS[_name] = type(_name, (Loader,), {})
'''


def _node(node_id: int, kind: str, position: list[int], **more: Any) -> dict[str, Any]:
    outputs = [{"name": name, "type": name, "links": links} for name, links in more.pop("outputs", ())]
    inputs = [{"name": name, "type": kind, "link": link} for name, kind, link in more.pop("inputs", ())]
    size = more.pop("size", [300, 100])
    return {
        "id": node_id, "type": kind, "pos": position, "size": size, "flags": {}, "order": node_id, "mode": 0,
        "inputs": inputs, "outputs": outputs, "properties": {}, **more,
    }  # fmt: skip


def text_to_image(
    checkpoint: str, repo_list: str = "", steps: int = 8, seed_control: str = "increment"
) -> dict[str, Any]:
    """The graph: seed 100 at first, pictures saved as ``remote/pic``."""
    nodes = [
        _node(
            4,
            "CheckpointLoaderSimple",
            [20, 100],
            widgets_values=[checkpoint],
            outputs=[("MODEL", [1]), ("CLIP", [2, 3]), ("VAE", [4])],
        ),
        _node(
            6,
            "CLIPTextEncode",
            [360, 60],
            inputs=[("clip", "CLIP", 2)],
            outputs=[("CONDITIONING", [5])],
            widgets_values=["a cat"],
            size=[300, 120],
        ),
        _node(
            7,
            "CLIPTextEncode",
            [360, 240],
            inputs=[("clip", "CLIP", 3)],
            outputs=[("CONDITIONING", [6])],
            widgets_values=["bad"],
            size=[300, 120],
        ),
        _node(5, "EmptyLatentImage", [360, 420], outputs=[("LATENT", [7])], widgets_values=[256, 256, 1]),
        _node(
            3,
            "KSampler",
            [700, 100],
            size=[300, 400],
            outputs=[("LATENT", [8])],
            inputs=[
                ("model", "MODEL", 1),
                ("positive", "CONDITIONING", 5),
                ("negative", "CONDITIONING", 6),
                ("latent_image", "LATENT", 7),
            ],
            widgets_values=[100, seed_control, steps, 8, "euler", "normal", 1],
        ),
        _node(
            8,
            "VAEDecode",
            [1020, 100],
            inputs=[("samples", "LATENT", 8), ("vae", "VAE", 4)],
            outputs=[("IMAGE", [9, 10])],
            size=[200, 60],
        ),
        _node(
            9, "SaveImage", [1020, 220], inputs=[("images", "IMAGE", 9)], widgets_values=["remote/pic"], size=[220, 270]
        ),
        _node(10, "PreviewImage", [1260, 220], inputs=[("images", "IMAGE", 10)], size=[200, 240]),
        _node(
            12,
            "TextMultilineOfThisMachine",
            [20, 300],
            title="repo_list",
            widgets_values=[repo_list],
            outputs=[("STRING", [])],
            size=[300, 120],
        ),
    ]
    links = [
        [1, 4, 0, 3, 0, "MODEL"], [2, 4, 1, 6, 0, "CLIP"], [3, 4, 1, 7, 0, "CLIP"], [4, 4, 2, 8, 1, "VAE"],
        [5, 6, 0, 3, 1, "CONDITIONING"], [6, 7, 0, 3, 2, "CONDITIONING"], [7, 5, 0, 3, 3, "LATENT"],
        [8, 3, 0, 8, 0, "LATENT"], [9, 8, 0, 9, 0, "IMAGE"], [10, 8, 0, 10, 0, "IMAGE"],
    ]  # fmt: skip
    return copy.deepcopy(
        {
            "last_node_id": 12, "last_link_id": 10, "version": 0.4, "extra": {}, "config": {}, "groups": [],
            "id": WORKFLOW_ID, "revision": 0, "nodes": nodes, "links": links,
        }
    )  # fmt: skip


def two_samplers(checkpoint: str, seed: int, steps: int, then_steps: int) -> dict[str, Any]:
    """The graph with a second sampler after the first, and a SaveImage for it; a new ``seed`` is nowhere cached."""
    graph = text_to_image(checkpoint, steps=steps)
    named = {node["id"]: node for node in graph["nodes"]}
    named[SAMPLER]["widgets_values"][0] = seed
    second = copy.deepcopy(named[SAMPLER]) | {"id": SECOND_SAMPLER, "pos": [700, 560], "order": 13}
    second["widgets_values"][2] = then_steps
    decode = copy.deepcopy(named[8]) | {"id": 18, "pos": [1020, 560], "order": 18}
    save = copy.deepcopy(named[SAVE]) | {"id": SECOND_SAVE, "pos": [1020, 680], "order": 19}
    graph["nodes"] += [second, decode, save]
    graph["links"] += [
        [21, 4, 0, 13, 0, "MODEL"], [22, 6, 0, 13, 1, "CONDITIONING"], [23, 7, 0, 13, 2, "CONDITIONING"],
        [24, 3, 0, 13, 3, "LATENT"], [25, 13, 0, 18, 0, "LATENT"], [26, 4, 2, 18, 1, "VAE"],
        [27, 18, 0, 19, 0, "IMAGE"],
    ]  # fmt: skip
    graph["nodes"] = [_linked(node, graph["links"]) for node in graph["nodes"]]
    return graph | {"last_node_id": 19, "last_link_id": 27}


def _linked(node: dict[str, Any], links: list[Any]) -> dict[str, Any]:
    """The node with the links that the list gives it."""
    for slot, given in enumerate(node["inputs"]):
        given["link"] = next((link[0] for link in links if link[3:5] == [node["id"], slot]), None)
    for slot, output in enumerate(node.get("outputs", ())):
        output["links"] = [link[0] for link in links if link[1:3] == [node["id"], slot]]
    return node
