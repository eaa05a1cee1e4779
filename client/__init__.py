"""Comfy Remote Serverless: this ComfyUI's Queue button runs the prompt on a RunPod serverless endpoint.

``remote_sink.py`` saves pictures and loads them again; the other modules send prompts and follow their jobs.
"""

from .install import install_pack
from .remote_sink import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

install_pack()
