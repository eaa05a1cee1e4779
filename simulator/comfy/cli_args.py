"""The command line: the flags of ComfyUI's that have an effect here; others are ignored, and named in the log."""

from __future__ import annotations

import argparse
import logging

_EVERYWHERE = "0.0.0.0,::"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulator", description=__doc__, allow_abbrev=False)
    parser.add_argument("--listen", default="127.0.0.1", nargs="?", const=_EVERYWHERE)
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--enable-cors-header", default=None, nargs="?", const="*", metavar="ORIGIN")
    parser.add_argument("--max-upload-size", type=float, default=100)
    for name in ("base", "output", "temp", "input", "user"):
        parser.add_argument(f"--{name}-directory", default=None)
    parser.add_argument("--extra-model-paths-config", default=[], nargs="+", action="extend", metavar="PATH")
    parser.add_argument("--preview-method", default="none", choices=("none", "auto", "latent2rgb", "taesd"))
    parser.add_argument("--preview-size", type=int, default=512)
    parser.add_argument("--disable-metadata", action="store_true")
    parser.add_argument("--disable-all-custom-nodes", action="store_true")
    parser.add_argument("--disable-auto-launch", action="store_true")
    parser.add_argument("--verbose", default="INFO", const="DEBUG", nargs="?")
    parser.add_argument("--front-end-root", default=None)
    return parser


args, unknown = _parser().parse_known_args()


def warn_about_unknown_flags() -> None:
    if unknown:
        logging.warning("The simulator ignores: %s", " ".join(unknown))
