"""Comfy Remote Serverless: the Queue button of this ComfyUI, rendered on a RunPod serverless endpoint.

``remote_sink.py`` takes pictures in and loads them again; the other modules send prompts out and follow them.
"""

from .install import install
from .remote_sink import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

install()
