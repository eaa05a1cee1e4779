"""A ComfyUI-compatible engine without GPU, torch or models, started exactly as ComfyUI is."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import execution
import fault_injection
import folder_paths
import nodes
import routes.files
import routes.info
import routes.prompt
import routes.simulator
import routes.user
from comfy.cli_args import args, warn_about_unknown_flags
from comfy_extras.painting import paint
from faults import faults
from server import PromptServer
from utils import extra_config

# A prompt that is a long chain of nodes is validated by recursion.
_RECURSION_LIMIT = 4000


def _prepare_folders() -> None:
    shutil.rmtree(folder_paths.get_temp_directory(), ignore_errors=True)
    folder_paths.prepare_directories()
    example = Path(folder_paths.get_input_directory(), "example.png")
    if not example.exists():
        paint("example", "example", (512, 512)).save(example)


def _log_identity() -> None:
    logging.info("This is the simulator, not ComfyUI: no GPU, no torch, no models are used and pictures are drawn.")
    logging.info("Python version: %s", sys.version)
    logging.info("ComfyUI version it follows: %s", routes.info.COMFYUI_VERSION)
    logging.info("Base directory: %s", folder_paths.base_path)
    warn_about_unknown_flags()


def _stop_on_signals(stop: asyncio.Event) -> None:
    def on_sigterm() -> None:
        if faults.take("ignore_sigterm"):
            logging.warning("Ignoring SIGTERM, as told")
        else:
            stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, on_sigterm)
    loop.add_signal_handler(signal.SIGINT, stop.set)


async def _run() -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    server = PromptServer(asyncio.get_running_loop())
    for module in (routes.prompt, routes.files, routes.info, routes.user, routes.simulator):
        module.add_routes(server)
    if not args.disable_all_custom_nodes:
        nodes.init_external_custom_nodes()
    server.add_routes()
    worker = (server.prompt_queue, server)
    threading.Thread(target=execution.prompt_worker, args=worker, name="prompt_worker", daemon=True).start()
    runner = await server.start(args.listen, args.port)
    tasks = [server.in_background(server.publish_loop()), server.in_background(routes.simulator.make_noise(server))]
    await stop.wait()
    logging.info("\nStopped server")
    for task in tasks:
        task.cancel()
    for ws in list(server.sockets.values()):
        await asyncio.wait({server.in_background(ws.close(code=1001))}, timeout=0.2)
    await runner.cleanup()


def main() -> None:
    logging.basicConfig(level=args.verbose, format="%(message)s", stream=sys.stderr)
    sys.setrecursionlimit(_RECURSION_LIMIT)
    faults.load_environment()
    _log_identity()
    for path in args.extra_model_paths_config:
        extra_config.load_extra_path_config(path)
    fault_injection.on_start()
    time.sleep(faults.value("start_delay_s", 0.0))
    _prepare_folders()
    asyncio.run(_run())
    shutil.rmtree(folder_paths.get_temp_directory(), ignore_errors=True)


if __name__ == "__main__":
    main()
