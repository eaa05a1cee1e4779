"""Makes the README's pictures anew: ``python -m tests.browser.record`` films the client at work in a real frontend.

Not a test. The engine on both sides is the simulator, so the pictures in the nodes are its own paintings.
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

from PIL import Image

from tests.browser import chromium
from tests.browser.comfy_page import ComfyPage
from tests.browser.conftest import CHECKPOINT, OwnEndpoint
from tests.browser.frontends import static_folder
from tests.browser.local_comfy import LocalComfy
from tests.browser.workflows import SAVE
from tests.endpoint.support import EndpointProcess
from tests.support.runpod_platform import CLIENT_KEY

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
FRONTEND = "1.42.15"
WIDTH = 1000
FRAME_MS = 200
LAST_FRAME_MS = 2500
REPO_LIST = "# what the worker shall have; nothing else stays\n# ckpt https://civitai.com/models/4384"


def main() -> None:
    """Film one run."""
    if problem := chromium.missing():
        raise SystemExit(problem)
    with tempfile.TemporaryDirectory() as scratch:
        frames = film(Path(scratch))
    save(frames)


def film(scratch: Path) -> list[Image.Image]:
    """Every frame from the press of Run until the picture is in its node."""
    with EndpointProcess(scratch / "endpoint", key=CLIENT_KEY, SIMULATOR_STEP_MS="220") as process:
        endpoint = OwnEndpoint(process)
        local = LocalComfy(scratch / "ComfyUI", static_folder(FRONTEND))
        local.add_model(CHECKPOINT)
        comfy_page = ComfyPage(local, endpoint, str(scratch / "profile"))
        try:
            prepare(comfy_page)
            comfy_page.queue()
            return frames_until_done(comfy_page)
        finally:
            comfy_page.close()
            local.stop()
            process.terminate()


def prepare(comfy_page: ComfyPage) -> None:
    """Remote configured and ON, previews asked for, the graph in the middle of the canvas."""
    comfy_page.open(steps=20, repo_list=REPO_LIST)
    comfy_page.configure()
    comfy_page.js(
        "return api.fetchApi('/remote/config', {method: 'POST', body: JSON.stringify({previews: true}),"
        " headers: {'Content-Type': 'application/json', 'X-Remote-Serverless': '1'}}).then(() => null)"
    )
    comfy_page.toggle(on=True)
    comfy_page.js("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    comfy_page.js("document.querySelector('.minimap-main-container, .litegraph-minimap')?.remove()")
    time.sleep(1)


def frames_until_done(comfy_page: ComfyPage) -> list[Image.Image]:
    """Pictures of the page, and one more of its end."""
    frames = []
    while not comfy_page.js(
        "return arguments[0] > 5 && !document.querySelector('.remote-serverless-status')", len(frames)
    ):
        began = time.monotonic()
        frames.append(shot(comfy_page))
        time.sleep(max(0.0, FRAME_MS / 1000 - (time.monotonic() - began)))
    comfy_page.wait_picture(SAVE)
    time.sleep(1)  # the page draws it
    return [*frames, shot(comfy_page)]


def shot(comfy_page: ComfyPage) -> Image.Image:
    """The page as it is."""
    with Image.open(io.BytesIO(comfy_page.driver.get_screenshot_as_png())) as page:
        whole = page.convert("RGB")
    return whole.resize((WIDTH, whole.height * WIDTH // whole.width), Image.Resampling.LANCZOS)


def save(frames: list[Image.Image]) -> None:
    """The film as animated WebP, small enough for a README."""
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    first, *others = frames
    target = PICTURES / "client-at-work.webp"
    first.save(target, save_all=True, append_images=others, duration=durations, loop=0, quality=70, method=4)
    print(f"{target}: {len(frames)} frames, {target.stat().st_size / 1e6:.1f} MB")  # noqa: T201 - what whoever ran it wants


if __name__ == "__main__":
    main()
