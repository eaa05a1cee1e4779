"""Drives ComfyUI's page as a person does, and reads what it shows, on every frontend alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from tests.browser import chromium
from tests.browser.local_comfy import LocalComfy
from tests.browser.workflows import text_to_image
from tests.support.runpod_platform import CLIENT_KEY, TERMINAL, RunPodPlatform

APP = "const app = window.comfyAPI.app.app, api = window.comfyAPI.api.api;"
READY = """return !!(window.__remoteServerless && window.comfyAPI?.app?.app?.graph?.nodes?.length > 0
    && document.querySelector('.remote-serverless-toggle') && document.querySelector('[data-testid="queue-button"]'))"""
WATCH = """
window.__seen = {strokes: {}, titles: [], progress: []};
clearInterval(window.__watching);
window.__watching = setInterval(() => {
  for (const node of app.graph.nodes) {
    const color = node.strokeStyles?.running?.call(node)?.color;
    if (color) window.__seen.strokes[node.id] = color;
    if (node.progress) window.__seen.progress.push(node.progress);
  }
  const line = document.querySelector('.remote-serverless-status span')?.textContent;
  if (line && !window.__seen.titles.includes(line)) window.__seen.titles.push(line);
}, 50);
"""
STEPS_PER_S = 10
"""The speed of the worker's simulator, which SIMULATOR_STEP_MS sets."""
LONGEST_S = 45
"""A job that takes longer than this could outlast the waiting for its end."""


class ComfyPage:
    """A browser on the page of one local ComfyUI."""

    def __init__(self, local: LocalComfy, platform: RunPodPlatform, profile: str) -> None:
        self.local, self.platform = local, platform
        self.driver = chromium.start(profile)
        self.driver.set_script_timeout(30)
        self.driver.set_page_load_timeout(60)

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    # -- the page --

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script with ``app`` and ``api`` at hand."""
        return self.driver.execute_script(APP + script, *arguments)

    def wait(self, script: str, *arguments: Any, timeout: float = 20) -> Any:
        """Wait until a script returns something true, and return it."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                answer = self.js(script, *arguments)
            except Exception:
                answer = None
            if answer:
                return answer
            assert time.monotonic() < deadline, f"never so: {script}\n{self.seen_by_person()}"
            time.sleep(0.1)

    def wait_for(self, happened: Callable[[], Any], timeout: float = 20) -> Any:
        """Wait until a call returns something true, and return it."""
        deadline = time.monotonic() + timeout
        while not (answer := happened()):
            assert time.monotonic() < deadline, f"it never happened\n{self.seen_by_person()}"
            time.sleep(0.1)
        return answer

    def seen_by_person(self) -> str:
        """Return the end of the page's text, for a failed test's message."""
        return str(self.driver.execute_script("return document.body.innerText"))[-1500:]

    def open(self, **options: Any) -> None:
        """Load the page and a fresh graph."""
        started = time.monotonic()
        self.driver.get(self.local.url)
        self.ready()
        self.opening_s = time.monotonic() - started
        self.load(**options)

    def steps(self, openings: int) -> int:
        """Return a number of sampler steps that takes longer than opening the page so often."""
        return int(min(5 + 3 * openings * self.opening_s, LONGEST_S) * STEPS_PER_S)

    def come_back(self, **options: Any) -> None:
        """Wait for a reloaded page; load the graph unless the page itself has restored it."""
        self.ready()
        if not self.js("return app.graph.getNodeById(12)?.title === 'repo_list'"):
            self.load(**options)

    def ready(self) -> None:
        """Wait until the page can be used. One that stays blank is loaded once more, as a person would do."""
        started, reloaded = time.monotonic(), False
        while not self.driver.execute_script(READY):
            waited_s = time.monotonic() - started
            if waited_s > 30 and not reloaded and not self.seen_by_person():
                reloaded = True
                self.driver.refresh()
            assert waited_s < 60, f"{self.seen_by_person()}\n{self.driver.get_log('browser')[-5:]}"
            time.sleep(0.1)

    def load(self, checkpoint: str = "tiny.safetensors", **options: Any) -> None:
        """Put the text-to-image graph on the canvas."""
        self.put(text_to_image(checkpoint, **options))

    def put(self, graph: dict[str, Any]) -> None:
        """Put a graph on the canvas; once more where the page, a moment later, restores its last one over it."""
        wanted = {str(node["id"]): node["type"] for node in graph["nodes"]}
        deadline = time.monotonic() + 30
        while True:
            self.js("return app.loadGraphData(arguments[0]).then(() => null)", graph)
            with contextlib.suppress(AssertionError):
                self.wait_for(lambda: self.kinds() == wanted, timeout=5)
                return
            assert time.monotonic() < deadline, self.seen_by_person()

    def kinds(self) -> dict[str, str]:
        """Return the type of every node on the canvas, by its id."""
        return dict(self.js("return Object.fromEntries(app.graph.nodes.map((node) => [node.id, node.type]))"))

    def click(self, selector: str) -> None:
        """Click something of ours."""
        self.js("document.querySelector(arguments[0]).click()", selector)

    def toggle(self, on: bool) -> None:
        """Switch the Remote button to ON or OFF."""
        label = f"Remote: {'ON' if on else 'OFF'}"
        if label not in self.label():
            self.click(".remote-serverless-toggle")
        self.wait(
            "return document.querySelector('.remote-serverless-toggle').innerText.includes(arguments[0])"
            " && Object.hasOwn(api, 'queuePrompt') === arguments[1]",
            label,
            on,
        )

    def label(self) -> str:
        """Return the text of the Remote button."""
        return str(self.js("return document.querySelector('.remote-serverless-toggle').innerText"))

    def configure(self) -> None:
        """Enter the endpoint and its key, if they are not there yet."""
        self.click(".remote-serverless-config")
        self.wait("return document.querySelector('.remote-serverless-dialog[open]')")
        self.enter(endpoint=self.platform.base, api_key=CLIENT_KEY)
        self.dialog_button("save")
        self.wait("return document.querySelector('.remote-serverless-dialog output').textContent === 'Saved.'")
        self.dialog_button("close")

    def enter(self, **values: Any) -> None:
        """Fill in fields of the config dialog."""
        self.js(
            "const fields = document.querySelector('.remote-serverless-dialog form').elements;"
            "for (const [name, value] of Object.entries(arguments[0])) fields[name].value = value;",
            values,
        )

    def dialog_button(self, name: str) -> None:
        """Press one of the config dialog's buttons."""
        self.js("document.querySelector('.remote-serverless-dialog form').elements[arguments[0]].click()", name)

    def answer(self) -> str:
        """Return the answer in the config dialog."""
        wanted = "const t = document.querySelector('.remote-serverless-dialog output').textContent;"
        return str(self.wait(wanted + "return t && !t.endsWith('...') && t"))

    # -- jobs --

    def queue(self, count: int = 1) -> None:
        """Press Run."""
        self.js(WATCH)
        self.js(
            "const found = app.extensionManager.queueSettings; (found.value ?? found).batchCount = arguments[0];", count
        )
        self.js("app.extensionManager.command.execute('Comfy.QueuePrompt')")

    def jobs(self) -> list[dict[str, Any]]:
        """Return the endpoint's jobs, oldest first."""
        return list(self.platform.jobs.values())

    def wait_jobs(
        self, before: int, count: int, states: set[str] = TERMINAL, timeout: float = 40
    ) -> list[dict[str, Any]]:
        """Wait until so many new jobs are in one of the states, and return them."""
        deadline = time.monotonic() + timeout
        while True:
            new = self.jobs()[before:]
            if len(new) >= count and all(job["status"] in states for job in new):
                return new
            assert time.monotonic() < deadline, f"{new and new[-1]['status']}\n{self.seen_by_person()}"
            time.sleep(0.1)

    def wait_idle(self) -> None:
        """Wait until no remote job is followed any more."""
        self.wait("return !document.querySelector('.remote-serverless-status')")

    def pictures(self, node_id: int) -> int:
        """Count the pictures that a node shows."""
        return int(self.js("return app.graph.getNodeById(arguments[0]).imgs?.length ?? 0", node_id))

    def wait_picture(self, node_id: int, timeout: float = 20) -> None:
        """Wait until a node shows a picture that really loaded."""
        script = "return app.graph.getNodeById(arguments[0]).imgs?.some((image) => image.naturalWidth > 0)"
        self.wait(script, node_id, timeout=timeout)

    def seen(self) -> dict[str, Any]:
        """Return everything that was on the screen since the last Run."""
        return dict(self.js("return window.__seen"))
