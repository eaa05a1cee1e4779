"""Runs a prompt in ComfyUI: submits it under an id of ours, follows it to its end and finds its files.

The websocket is for speed; the truth is ``/history/<prompt_id>``. It is requested on the final event, after every
reconnect and whenever no event of the prompt came for a second. One deadline bounds it all.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from worker.comfyui.api import NoAnswerError
from worker.comfyui.cached_files import content_key, with_rerun_input
from worker.comfyui.collect import Collector
from worker.comfyui.history import cached_nodes, failure
from worker.comfyui.progress import JobProgress
from worker.comfyui.run import PromptRun
from worker.comfyui.server import ComfyServer, State
from worker.comfyui.thumbnails import Thumbnails
from worker.comfyui.validation_errors import choices_of, omitted_lists, validation_error
from worker.errors import Code, WorkerError
from worker.inputs.files import InputFiles, rename_inputs
from worker.inputs.folder import Inputs
from worker.job import Job, Prompt
from worker.results.outputs import Output, OutputFile, outputs_of
from worker.settings import Settings
from worker.stop import Stop

SILENCE_S = 1.0  # half of the 2 s that a lost event may cost
DEQUEUE_WAIT_S = 0.05  # between the final event and the one that history is written, which may get lost as well
LATE_HISTORY_S = 5.0  # history follows an error within milliseconds; after this long we rely on the events
UNREACHABLE_S = 15.0  # a ComfyUI that is not ours and refuses connections for longer counts as dead
RERUN_TRIES = 3
INTERRUPT_GRACE_S = 20.0  # a sampler checks for an interrupt once a step; past this ComfyUI hangs and is restarted
RELEASE_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """A prompt that ran: its files in node order, and the warnings for the caller. Times in seconds."""

    prompt_id: str
    prompt: Prompt
    """As it was submitted."""
    outputs: list[OutputFile]
    cached: frozenset[str]
    """Nodes whose files may carry texts other than this prompt's."""
    warnings: list[str]
    run_s: float
    collect_s: float


class _DiedError(Exception):
    """ComfyUI ended while a prompt was in it."""


class ComfyRunner:
    """Runs prompts on the ComfyUI of this worker, one at a time, in the order of their arrival.

    Args:
        settings: where ComfyUI is and how it is started.
        on_lost: called (from a thread) when ComfyUI has died for good while no prompt was running.
    """

    def __init__(self, settings: Settings, on_lost: Callable[[], None] | None = None) -> None:
        self.server = ComfyServer(settings)
        self.server.on_exit = self._on_comfyui_exit
        self.inputs = InputFiles(settings)
        self._api = self.server.api
        self._collector = Collector(self.server)
        self._comfy_org_api_key = settings.comfy_org_api_key
        self._on_lost = on_lost
        self._notify_run: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()

    def launch(self) -> None:
        """Start ComfyUI without waiting for it."""
        self.server.launch()

    async def ready(self, deadline: float) -> None:
        """Start ComfyUI if it does not run, and wait until it answers. Raises as :meth:`ComfyServer.ready`."""
        self._loop = asyncio.get_running_loop()
        await self.server.ready(deadline)

    @property
    def is_ready(self) -> bool:
        """True if ComfyUI answers already."""
        return self.server.state is State.READY

    async def object_info(self, classes: Iterable[str]) -> dict[str, Any]:
        """Return ComfyUI's descriptions of node classes, by class; requested all at once."""
        classes = list(classes)
        return dict(zip(classes, await asyncio.gather(*map(self._api.object_info, classes)), strict=True))

    async def stats(self) -> dict[str, Any] | None:
        """Return ComfyUI's versions, devices and memory; None while it does not answer."""
        with contextlib.suppress(NoAnswerError):
            return await self._api.system_stats() if self.is_ready else None
        return None

    def release_models(self) -> None:
        """Make ComfyUI unload its models. For threads: it blocks until ComfyUI has accepted the request."""
        if self._loop and self.is_ready:
            with contextlib.suppress(concurrent.futures.TimeoutError):
                asyncio.run_coroutine_threadsafe(self._free(), self._loop).result(RELEASE_TIMEOUT_S)

    def stop(self) -> None:
        """Stop ComfyUI and delete the input files; idempotent."""
        self.server.stop()
        self.inputs.close()

    def _on_comfyui_exit(self) -> None:
        if self._notify_run:
            self._notify_run()
        elif self.server.state is State.LOST and self.server.was_ready and self._on_lost:
            self._on_lost()  # if it never came up, the next job reports why

    async def run(
        self,
        job: Job,
        prompt: Prompt,
        deadline: float,
        progress: JobProgress | None = None,
        *,
        inputs: Inputs | None = None,
    ) -> Result:
        """Submit a prompt, follow it to its end and find its files.

        Args:
            job: its input files, ``extra_data`` and ``targets`` are used.
            prompt: in API format, with model names as this ComfyUI lists them.
            deadline: ``time.monotonic()`` value; past it the prompt is interrupted and the job fails with TIMEOUT.
            progress: receives the phases and events.
            inputs: the job's files on this disk; downloaded now if left out.

        Raises:
            WorkerError: the prompt failed; its code says why.
            asyncio.CancelledError: the job was cancelled; the prompt is no longer in ComfyUI.
        """
        if inputs is None:
            inputs = await asyncio.to_thread(self.inputs.download, job.files, Stop(deadline))
        async with self._turn:
            return await self._run(job, prompt, inputs, deadline, progress)

    async def _run(
        self, job: Job, prompt: Prompt, inputs: Inputs, deadline: float, progress: JobProgress | None
    ) -> Result:
        while True:
            await self.ready(deadline)
            run = PromptRun(deadline, self.server.generation, progress)
            try:
                renamed = await self._place_inputs(run, inputs)
                result = await self._run_once(run, job, rename_inputs(prompt, renamed) if renamed else prompt)
                result.warnings.extend(
                    f"{asked}: this worker has another file of that name; yours was read as {actual}."
                    for asked, actual in renamed.items()
                )
            except _DiedError:
                if run.started or run.missed_events or not self.server.trusted:
                    raise self.server.died_error("died while it ran the prompt") from None
                log.warning("ComfyUI died before the prompt began; the prompt is submitted again after its restart")
                continue
            except WorkerError as error:
                if error.code is Code.OUT_OF_MEMORY:
                    await self._free()
                raise
            self.server.job_finished()
            return result

    async def _run_once(self, run: PromptRun, job: Job, prompt: Prompt) -> Result:
        started = time.monotonic()
        run.content_key = content_key(prompt, job.pnginfo)
        outputs = await self._execute(run, job, prompt)
        ended = time.monotonic()
        found = await self._collector.collect(run, prompt, outputs)
        for attempt in range(RERUN_TRIES):
            if found.complete:
                break
            only = found.to_rerun if not attempt and not found.missing else set()
            outputs = await self._rerun(run, job, prompt, only)
            found = await self._collector.collect(run, prompt, outputs)
        files = found.or_error().files
        if self.server.folder and self.server.folder.is_sweep_due:
            await asyncio.to_thread(self.server.folder.sweep, {file.path for file in files if file.path})
        cached, collect_s = found.from_cache | run.rerun_nodes, time.monotonic() - ended
        return Result(run.prompt_id, prompt, files, cached, found.warnings, ended - started, collect_s)

    async def _rerun(self, run: PromptRun, job: Job, prompt: Prompt, only: set[str]) -> list[Output]:
        """Run a prompt again that ComfyUI answered from its cache, with files that are gone or another caller's.

        Args:
            run: of the prompt.
            job: of the prompt.
            prompt: as it was submitted.
            only: the nodes to run again if that is enough; empty to run everything.
        """
        if only and only <= prompt.keys():
            run.begin_rerun()
            try:
                outputs = await self._execute(run, job, with_rerun_input(prompt, only, run.content_key))
            except WorkerError as error:
                if error.code not in (Code.NODE_FAILED, Code.PROMPT_INVALID):
                    raise
                log.warning("a node does not accept an added input (%s): everything runs again", error)
            else:
                run.rerun_nodes = frozenset(only)
                return outputs
        # Without its cache ComfyUI runs every node. It acts on /free between two prompts, and does not report when.
        await self._call(run, self._api.free(unload_models=False))
        await asyncio.sleep(0.2)
        run.begin_rerun()
        return await self._execute(run, job, prompt)

    async def _execute(self, run: PromptRun, job: Job, prompt: Prompt) -> list[Output]:
        """Submit and follow the prompt. On any error or cancellation it is removed from ComfyUI."""
        run.set_phase("queued", "Handed to ComfyUI")
        run.missed_events = not await self._api.connected(SILENCE_S)
        with self._subscribed(run, prompt):
            try:
                async with Thumbnails(run.progress, self._collector.find) as run.thumbnails:
                    await self._submit(run, job, prompt)
                    history = await self._follow(run)
            except (asyncio.CancelledError, WorkerError) as error:
                if isinstance(error, asyncio.CancelledError) or error.code is Code.TIMEOUT:
                    await asyncio.shield(self._interrupt(run))
                raise
            except NoAnswerError as error:
                await asyncio.shield(self._interrupt(run))
                raise self.server.died_error(f"stopped answering: {error}") from error
            if failed := failure(history):
                raise failed
        cached = cached_nodes(history)
        run.cached = frozenset(prompt) if cached is None else cached
        return outputs_of(history)

    @contextlib.contextmanager
    def _subscribed(self, run: PromptRun, prompt: Prompt) -> Iterator[None]:
        """Pass ComfyUI's events and its exit to the run inside a ``with`` block."""
        loop = asyncio.get_running_loop()

        def notify_run() -> None:  # from the thread that watches the process
            with contextlib.suppress(RuntimeError):  # the loop has closed: no prompt waits any more
                loop.call_soon_threadsafe(run.on_process_exit)

        self._notify_run = notify_run
        try:
            with self._api.subscribed(run.on_event):
                yield
        except BaseException:
            written = outputs_of({"outputs": run.outputs})
            self._collector.cached_files.record_unfinished(run.content_key, prompt, written, run.cached_by_events)
            raise
        finally:
            self._notify_run = None

    # ------------------------------------------------------------------ submit

    async def _submit(self, run: PromptRun, job: Job, prompt: Prompt) -> None:
        body: dict[str, Any] = {"prompt": prompt, "prompt_id": run.prompt_id, "client_id": self._api.client_id}
        body["extra_data"] = dict(job.extra_data)
        if self._comfy_org_api_key:
            body["extra_data"].setdefault("api_key_comfy_org", self._comfy_org_api_key)
        if job.targets is not None:
            body["partial_execution_targets"] = job.targets
        status, answer = await self._post(run, body)
        if status == 200 and not answer.get("node_errors"):
            return
        options = {asked: await self._options(*asked) for asked in omitted_lists(answer)}
        error = validation_error(status, answer, job.targets, options)
        if error is None:
            return
        if status == 200:
            await asyncio.shield(self._interrupt(run))  # the valid part of it runs
        if status >= 500:
            error.details.update(self.server.log_details())
        raise error

    async def _post(self, run: PromptRun, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """POST the prompt; once more if the connection broke and ComfyUI does not have a prompt of our id.

        Until the deadline no answer is too slow: some nodes validate slowly, and to post twice would render twice.
        """
        patience_s = max(0.1, run.deadline - time.monotonic())
        try:
            status, answer = await self._call(run, self._api.submit(body, patience_s))
            if status < 500:
                return status, answer
            log.warning("ComfyUI answered %d to /prompt", status)
        except NoAnswerError as error:
            if time.monotonic() >= run.deadline:
                raise WorkerError(Code.TIMEOUT, "the job ran out of time before ComfyUI accepted its prompt") from error
            log.warning("no answer to /prompt (%s)", error)
        if await self._call(run, self._api.has_prompt(run.prompt_id)):
            return 200, {}
        return await self._call(run, self._api.submit(body, patience_s))

    async def _place_inputs(self, run: PromptRun, inputs: Inputs) -> dict[str, str]:
        """Put the job's files into ComfyUI's input folder. Return the new names of those that had to be renamed."""
        if not inputs:
            return {}
        if not self.server.external:
            return await asyncio.to_thread(self.inputs.folder.link_inputs, inputs)
        for name, content in inputs:
            status = await self._call(run, self._api.upload(name, content.path))
            if status != 200:
                raise WorkerError(Code.INVALID_INPUT, f"ComfyUI did not accept the file {name!r} ({status})")
        return {}

    async def _call(self, run: PromptRun, request: Awaitable[T]) -> T:
        """Await a request. Raises :class:`_DiedError` if ComfyUI died meanwhile, else :class:`NoAnswerError`."""
        try:
            return await request
        except NoAnswerError:
            await asyncio.sleep(0.2)  # its exit is noticed a moment after its sockets close
            if self.server.generation != run.generation or not self.server.running:
                raise _DiedError from None
            raise

    # ------------------------------------------------------------------ follow

    async def _follow(self, run: PromptRun) -> dict[str, Any]:
        """Wait for the prompt's end. Return its ``/history`` entry."""
        while True:
            await self._wait_for_change(run)
            if run.final_event:
                return await self._final_history(run)
            if time.monotonic() >= run.deadline:
                raise WorkerError(Code.TIMEOUT, "the job ran out of time while its prompt was in ComfyUI")
            if history := await self._poll_history(run):
                return history

    async def _wait_for_change(self, run: PromptRun) -> None:
        """Wait until history may have more: the prompt's end, a reconnect, or a second without an event."""
        while True:
            patience_s = DEQUEUE_WAIT_S if run.final_event else SILENCE_S
            left = min(run.last_event_at + patience_s, run.deadline) - time.monotonic()
            try:
                await asyncio.wait_for(run.changed.wait(), max(0.0, left))
            except asyncio.TimeoutError:
                run.last_event_at = time.monotonic()
                return
            run.changed.clear()
            if run.process_exited and not run.final_event:
                raise _DiedError
            if run.dequeued or run.process_exited or not run.final_event:
                return

    async def _final_history(self, run: PromptRun) -> dict[str, Any]:
        """Return the history of a prompt whose final event came; made of its events if ComfyUI does not deliver it."""
        delay, until = 0.0, min(time.monotonic() + LATE_HISTORY_S, run.deadline)
        with contextlib.suppress(NoAnswerError):
            while True:
                if history := await self._api.history(run.prompt_id):
                    return history
                if time.monotonic() >= until:
                    break
                await asyncio.sleep(delay)
                delay = min(0.25, delay + 0.01)
        return run.history_from_events()

    async def _poll_history(self, run: PromptRun) -> dict[str, Any] | None:
        """Return the history of a prompt without recent events; None if it has not ended. Raises if it is gone."""
        now = time.monotonic()
        try:
            if history := await self._api.history(run.prompt_id):
                return history
            queued = await self._api.is_queued(run.prompt_id)
        except NoAnswerError:
            run.unreachable_since = run.unreachable_since or now
            if self.server.external and now - run.unreachable_since > UNREACHABLE_S:
                raise self.server.died_error(f"at {self.server.url} stopped answering") from None
            return None
        run.unreachable_since = None
        run.missing_since = None if queued else run.missing_since or now
        if run.missing_since and now - run.missing_since > 2 * SILENCE_S:  # not just between the queue and history
            raise WorkerError(Code.INTERRUPTED, "somebody else removed the prompt from ComfyUI's queue")
        return None

    # ------------------------------------------------------------------ clean up

    async def _interrupt(self, run: PromptRun) -> None:
        """Interrupt a prompt and wait until ComfyUI has dropped it. Restart a ComfyUI that does not."""
        until = time.monotonic() + INTERRUPT_GRACE_S
        while time.monotonic() < until and self.server.running and self.server.generation == run.generation:
            # Repeated: ComfyUI forgets an interrupt that arrives just before a prompt begins.
            with contextlib.suppress(NoAnswerError):
                await self._api.interrupt(run.prompt_id)
                if not await self._api.is_queued(run.prompt_id):
                    return
            await asyncio.sleep(0.1)
        if self.server.generation == run.generation and not self.server.external:
            log.error("ComfyUI did not drop the prompt within %.0f s; it is restarted", INTERRUPT_GRACE_S)
            self.server.restart()

    async def _free(self) -> None:
        with contextlib.suppress(NoAnswerError):
            await self._api.free(unload_models=True)

    async def _options(self, class_type: str, input_name: str) -> list[str]:
        """Return every choice of an input in this ComfyUI."""
        for group in ((await self._api.object_info(class_type)).get("input") or {}).values():
            if input_name in group:
                return choices_of(group[input_name]) or []
        return []
