"""One prompt's life inside ComfyUI: submitted under an id of ours, followed to its end, its files brought back.

The websocket is for speed; the truth is ``/history/<prompt_id>``: asked on the final event, after every reconnect and
whenever the prompt has been silent for a second. One deadline bounds it all.
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
from worker.comfyui.run import Run
from worker.comfyui.server import ComfyServer, State
from worker.comfyui.thumbnails import Thumbnails
from worker.comfyui.validation_errors import listed, lists_left_out, validation_error
from worker.errors import Code, WorkerError
from worker.inputs.files import InputFiles, rename_inputs
from worker.inputs.folder import Inputs
from worker.job import Job, Prompt
from worker.results.outputs import Output, OutputFile, outputs_of
from worker.settings import Settings
from worker.stop import Stop

SILENCE_S = 1.0  # half of the 2 s that a lost event may cost
SETTLE_S = 0.05  # between the final event and the word that history is written, which may get lost as well
LATE_HISTORY_S = 5.0  # history follows an error within milliseconds; after this long the events themselves are believed
UNREACHABLE_S = 15.0  # how long a ComfyUI that is not ours may refuse connections before it counts as dead
ANEW_TRIES = 3
INTERRUPT_GRACE_S = 20.0  # a sampler looks for an interrupt once a step; past this ComfyUI hangs and is started again
RELEASE_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """A prompt that ran: its files in node order, and what the caller should know besides. Times in seconds."""

    prompt_id: str
    prompt: Prompt
    """As it was submitted."""
    outputs: list[OutputFile]
    cached: frozenset[str]
    """Nodes whose files may carry other texts than this prompt's."""
    warnings: list[str]
    run_s: float
    collect_s: float


class _DiedError(Exception):
    """ComfyUI ended while a prompt was in it."""


class ComfyRunner:
    """Runs prompts on the ComfyUI of this worker, one at a time: the others wait for their turn.

    Args:
        settings: where ComfyUI is and how it is started.
        on_lost: called (from a thread) when ComfyUI has died for good while no prompt was there to tell it.
    """

    def __init__(self, settings: Settings, on_lost: Callable[[], None] | None = None) -> None:
        self.server = ComfyServer(settings)
        self.server.on_death = self._on_death
        self.inputs = InputFiles(settings)
        self._api = self.server.api
        self._collector = Collector(self.server)
        self._comfy_org_api_key = settings.comfy_org_api_key
        self._on_lost = on_lost
        self._tell_death: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()

    def launch(self) -> None:
        """Start ComfyUI without waiting for it."""
        self.server.launch()

    async def ready(self, deadline: float) -> None:
        """Wait until ComfyUI answers; starts it when it does not run. Raises as :meth:`ComfyServer.ready`."""
        self._loop = asyncio.get_running_loop()
        await self.server.ready(deadline)

    @property
    def is_ready(self) -> bool:
        """Whether ComfyUI answers already."""
        return self.server.state is State.READY

    async def object_info(self, classes: Iterable[str]) -> dict[str, Any]:
        """What ComfyUI says of these node classes' inputs, by class; asked for all at once."""
        classes = list(classes)
        return dict(zip(classes, await asyncio.gather(*map(self._api.object_info, classes)), strict=True))

    async def stats(self) -> dict[str, Any] | None:
        """ComfyUI's versions, devices and memory; None while it does not answer."""
        with contextlib.suppress(NoAnswerError):
            return await self._api.system_stats() if self.is_ready else None
        return None

    def release_models(self) -> None:
        """Make ComfyUI let go of its models. For threads: it blocks until ComfyUI has taken the order."""
        if self._loop and self.is_ready:
            with contextlib.suppress(concurrent.futures.TimeoutError):
                asyncio.run_coroutine_threadsafe(self._free(), self._loop).result(RELEASE_TIMEOUT_S)

    def stop(self) -> None:
        """End everything; idempotent."""
        self.server.stop()
        self.inputs.close()

    def _on_death(self) -> None:
        if self._tell_death:
            self._tell_death()
        elif self.server.state is State.LOST and self.server.was_ready and self._on_lost:
            self._on_lost()  # one that never came up is kept for the next job, which tells its caller why

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
            job: whose input files, ``extra_data`` and ``targets`` go along.
            prompt: API format, model names already as this ComfyUI lists them.
            deadline: ``time.monotonic()`` value; past it the prompt is interrupted and the job fails with TIMEOUT.
            progress: told what happens.
            inputs: the job's files, already brought to this disk; brought now when left out.

        Raises:
            WorkerError: whatever went wrong, told apart by its code.
            asyncio.CancelledError: the job was cancelled; ComfyUI has let go of the prompt by then.
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
            run = Run(deadline, self.server.generation, progress)
            try:
                renamed = await self._place(run, inputs)
                result = await self._run_once(run, job, rename_inputs(prompt, renamed) if renamed else prompt)
                result.warnings.extend(
                    f"{asked}: this worker has another file of that name; yours was read as {actual}."
                    for asked, actual in renamed.items()
                )
            except _DiedError:
                if run.begun or run.blind or not self.server.trusted:
                    raise self.server.death("died while it ran the prompt") from None
                log.warning("ComfyUI died before the prompt began; it is submitted to the next one")
                continue
            except WorkerError as error:
                if error.code is Code.OUT_OF_MEMORY:
                    await self._free()
                raise
            self.server.job_finished()
            return result

    async def _run_once(self, run: Run, job: Job, prompt: Prompt) -> Result:
        started = time.monotonic()
        run.author = content_key(prompt, job.pnginfo)
        outputs = await self._execute(run, job, prompt)
        ended = time.monotonic()
        found = await self._collector.collect(run, prompt, outputs)
        for attempt in range(ANEW_TRIES):
            if found.whole:
                break
            only = found.stale if not attempt and not found.lost else set()
            outputs = await self._execute_anew(run, job, prompt, only)
            found = await self._collector.collect(run, prompt, outputs)
        files = found.or_error().files
        if self.server.folder and self.server.folder.is_sweep_due:
            await asyncio.to_thread(self.server.folder.sweep, {file.path for file in files if file.path})
        cached, collect_s = found.earlier | run.marked, time.monotonic() - ended
        return Result(run.prompt_id, prompt, files, cached, found.warnings, ended - started, collect_s)

    async def _execute_anew(self, run: Run, job: Job, prompt: Prompt, only: set[str]) -> list[Output]:
        """Run a prompt again that ComfyUI answered from its cache, with files that are gone or another caller's.

        Args:
            run: the prompt's.
            job: its job.
            prompt: as it was submitted.
            only: the nodes to run anew, where that is enough; else everything runs.
        """
        if only and only <= prompt.keys():
            run.begin_anew()
            try:
                outputs = await self._execute(run, job, with_rerun_input(prompt, only, run.author))
            except WorkerError as error:
                if error.code not in (Code.NODE_FAILED, Code.PROMPT_INVALID):
                    raise
                log.warning("a node does not take an input more (%s): everything runs anew", error)
            else:
                run.marked = frozenset(only)
                return outputs
        # Without the cache ComfyUI makes all anew. It acts on /free between two prompts, and does not say when it has.
        await self._call(run, self._api.free(unload_models=False))
        await asyncio.sleep(0.2)
        run.begin_anew()
        return await self._execute(run, job, prompt)

    async def _execute(self, run: Run, job: Job, prompt: Prompt) -> list[Output]:
        """Submit and follow; whatever ends this early leaves nothing of the prompt in ComfyUI."""
        run.tell("queued", "Handed to ComfyUI")
        run.blind = not await self._api.connected(SILENCE_S)
        with self._heard_by(run, prompt):
            try:
                async with Thumbnails(run.progress, self._collector.find) as run.thumbnails:
                    await self._submit(run, job, prompt)
                    history = await self._follow(run)
            except (asyncio.CancelledError, WorkerError) as error:
                if isinstance(error, asyncio.CancelledError) or error.code is Code.TIMEOUT:
                    await asyncio.shield(self._abandon(run))
                raise
            except NoAnswerError as error:
                await asyncio.shield(self._abandon(run))
                raise self.server.death(f"stopped answering: {error}") from error
            if failed := failure(history):
                raise failed
        cached = cached_nodes(history)
        run.cached = frozenset(prompt) if cached is None else cached
        return outputs_of(history)

    @contextlib.contextmanager
    def _heard_by(self, run: Run, prompt: Prompt) -> Iterator[None]:
        """Tell the run what ComfyUI sends, and its death, for the length of a block."""
        loop = asyncio.get_running_loop()

        def tell_death() -> None:  # from the thread that watches the process
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(run.hear_death)

        self._tell_death = tell_death
        try:
            with self._api.heard_by(run.hear):
                yield
        except BaseException:
            named = outputs_of({"outputs": run.outputs})
            self._collector.authors.note_unfinished(run.author, prompt, named, run.heard_cached)
            raise
        finally:
            self._tell_death = None

    # ------------------------------------------------------------------ submit

    async def _submit(self, run: Run, job: Job, prompt: Prompt) -> None:
        body: dict[str, Any] = {"prompt": prompt, "prompt_id": run.prompt_id, "client_id": self._api.client_id}
        body["extra_data"] = dict(job.extra_data)
        if self._comfy_org_api_key:
            body["extra_data"].setdefault("api_key_comfy_org", self._comfy_org_api_key)
        if job.targets is not None:
            body["partial_execution_targets"] = job.targets
        status, answer = await self._post(run, body)
        if status == 200 and not answer.get("node_errors"):
            return
        options = {asked: await self._options(*asked) for asked in lists_left_out(answer)}
        error = validation_error(status, answer, job.targets, options)
        if error is None:
            return
        if status == 200:
            await asyncio.shield(self._abandon(run))  # a part of it runs
        if status >= 500:
            error.details.update(self.server.log_lines())
        raise error

    async def _post(self, run: Run, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """POST the prompt; once more when the connection broke and ComfyUI, asked by our own id, does not have it.

        It may take its time: nodes validate themselves in it, some of them slowly, and to ask twice is to render twice.
        """
        patience_s = max(0.1, run.deadline - time.monotonic())
        try:
            status, answer = await self._call(run, self._api.submit(body, patience_s))
            if status < 500:
                return status, answer
            log.warning("ComfyUI answered %d to /prompt", status)
        except NoAnswerError as error:
            if time.monotonic() >= run.deadline:
                raise WorkerError(Code.TIMEOUT, "the job's time was over before ComfyUI took its prompt") from error
            log.warning("no answer to /prompt (%s)", error)
        if await self._call(run, self._api.knows(run.prompt_id)):
            return 200, {}
        return await self._call(run, self._api.submit(body, patience_s))

    async def _place(self, run: Run, inputs: Inputs) -> dict[str, str]:
        """Put the job's files where ComfyUI's loaders look; those that had to take another name."""
        if not inputs:
            return {}
        if not self.server.external:
            return await asyncio.to_thread(self.inputs.folder.link_inputs, inputs)
        for name, content in inputs:
            status = await self._call(run, self._api.upload(name, content.path))
            if status != 200:
                raise WorkerError(Code.INVALID_INPUT, f"ComfyUI refused the file {name!r} ({status})")
        return {}

    async def _call(self, run: Run, request: Awaitable[T]) -> T:
        """Ask ComfyUI; one that died meanwhile is told apart from one that did not answer."""
        try:
            return await request
        except NoAnswerError:
            await asyncio.sleep(0.2)  # its end is noticed a moment after its sockets close
            if self.server.generation != run.generation or not self.server.running:
                raise _DiedError from None
            raise

    # ------------------------------------------------------------------ follow

    async def _follow(self, run: Run) -> dict[str, Any]:
        """Wait for the prompt's end; its ``/history`` entry."""
        while True:
            await self._listen(run)
            if run.ending:
                return await self._last_word(run)
            if time.monotonic() >= run.deadline:
                raise WorkerError(Code.TIMEOUT, "the job's time was over while its prompt was in ComfyUI")
            if history := await self._ask(run):
                return history

    async def _listen(self, run: Run) -> None:
        """Wait until history may know more: the prompt's end, a reconnect, or a second without a word."""
        while True:
            patience_s = SETTLE_S if run.ending else SILENCE_S
            left = min(run.heard_at + patience_s, run.deadline) - time.monotonic()
            try:
                await asyncio.wait_for(run.news.wait(), max(0.0, left))
            except asyncio.TimeoutError:
                run.heard_at = time.monotonic()
                return
            run.news.clear()
            if run.died and not run.ending:
                raise _DiedError
            if run.settled or run.died or not run.ending:
                return

    async def _last_word(self, run: Run) -> dict[str, Any]:
        """The history of a prompt whose final event came: it may lag a moment, or never come any more."""
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

    async def _ask(self, run: Run) -> dict[str, Any] | None:
        """History's word on a prompt that has gone quiet; notices one that is nowhere any more."""
        now = time.monotonic()
        try:
            if history := await self._api.history(run.prompt_id):
                return history
            queued = await self._api.is_queued(run.prompt_id)
        except NoAnswerError:
            run.unreachable_since = run.unreachable_since or now
            if self.server.external and now - run.unreachable_since > UNREACHABLE_S:
                raise self.server.death(f"at {self.server.url} stopped answering") from None
            return None
        run.unreachable_since = None
        run.missing_since = None if queued else run.missing_since or now
        if run.missing_since and now - run.missing_since > 2 * SILENCE_S:  # not just between the queue and history
            raise WorkerError(Code.INTERRUPTED, "the prompt was taken out of ComfyUI's queue from outside")
        return None

    # ------------------------------------------------------------------ clean up

    async def _abandon(self, run: Run) -> None:
        """Stop a prompt and wait until ComfyUI has let go of it; one that does not is killed and started again."""
        until = time.monotonic() + INTERRUPT_GRACE_S
        while time.monotonic() < until and self.server.running and self.server.generation == run.generation:
            # Asked again and again: ComfyUI forgets an interrupt that arrives just before a prompt begins.
            with contextlib.suppress(NoAnswerError):
                await self._api.interrupt(run.prompt_id)
                if not await self._api.is_queued(run.prompt_id):
                    return
            await asyncio.sleep(0.1)
        if self.server.generation == run.generation and not self.server.external:
            log.error("ComfyUI did not let go of the prompt within %.0f s; it is started again", INTERRUPT_GRACE_S)
            self.server.restart()

    async def _free(self) -> None:
        with contextlib.suppress(NoAnswerError):
            await self._api.free(unload_models=True)

    async def _options(self, class_type: str, input_name: str) -> list[str]:
        """Every value this ComfyUI has for an input."""
        for group in ((await self._api.object_info(class_type)).get("input") or {}).values():
            if input_name in group:
                return listed(group[input_name]) or []
        return []
