"""Runs prompts: one thread, one prompt at a time, every message in ComfyUI's order."""

from __future__ import annotations

import gc
import logging
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

import sabotage
from comfy_execution.caching import Caches
from comfy_execution.graph import Agenda, DependencyCycleError, Prompt, node_class
from comfy_execution.node_calls import Inputs, call_node, gather_inputs, split_results
from comfy_execution.progress import Progress, begin
from comfy_execution.validation import full_type_name, validate_prompt
from interruption import InterruptProcessingException, interrupt_processing, throw_if_interrupted
from misbehave import OutOfMemoryError
from prompt_queue import ExecutionStatus, PromptQueue, log_duration

if TYPE_CHECKING:
    from server import PromptServer

__all__ = ["PromptExecutor", "PromptQueue", "prompt_worker", "validate_prompt"]

_OOM_TIPS = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have"
    " accidentally set the batch_size to a large number."
)


class PromptExecutor:
    """Keeps what outlives a prompt: the caches, and how the last one went."""

    def __init__(self, server: PromptServer) -> None:
        self.server = server
        self.reset()

    def reset(self) -> None:
        self.caches = Caches()
        self.success = True
        self.status_messages: list[tuple[str, dict[str, Any]]] = []
        self.history_result: dict[str, Any] = {}

    def add_message(self, event: str, data: dict[str, Any], broadcast: bool = False) -> None:
        data = {**data, "timestamp": int(time.time() * 1000)}
        self.status_messages.append((event, data))
        if self.server.client_id is not None or broadcast:
            self.server.send_sync(event, data, self.server.client_id)

    def execute(self, prompt: Prompt, prompt_id: str, extra_data: dict[str, Any], outputs: list[str]) -> None:
        interrupt_processing(False)
        self.server.client_id = extra_data.get("client_id")
        self.status_messages = []
        self.add_message("execution_start", {"prompt_id": prompt_id})
        sabotage.moment(self.server, "execution_start")
        self.caches.start(prompt)
        cached = [node_id for node_id in prompt if self.caches.outputs.get(node_id) is not None]
        self.add_message("execution_cached", {"nodes": cached, "prompt_id": prompt_id})
        run = _Run(self, prompt, prompt_id, extra_data)
        self.success = run.to_the_end(outputs)
        if self.success:
            sabotage.moment(self.server, "before_success")
            self.add_message("execution_success", {"prompt_id": prompt_id})
        self.history_result = self._shown(prompt)
        self.server.last_node_id = None

    def _shown(self, prompt: Prompt) -> dict[str, Any]:
        shown = {node_id: ui for node_id in prompt if (ui := self.caches.ui.get(node_id)) is not None}
        return {
            "outputs": {node_id: ui["output"] for node_id, ui in shown.items()},
            "meta": {node_id: ui["meta"] for node_id, ui in shown.items()},
        }


class _Run:
    """One prompt's way through its nodes."""

    def __init__(self, executor: PromptExecutor, prompt: Prompt, prompt_id: str, extra_data: dict[str, Any]) -> None:
        self.executor = executor
        self.server = executor.server
        self.caches = executor.caches
        self.prompt = prompt
        self.prompt_id = prompt_id
        self.extra_data = extra_data
        self.executed: list[str] = []
        self.agenda = Agenda(prompt, lambda node_id: self.caches.outputs.get(node_id) is not None)
        self.progress = Progress(prompt_id, self.server)
        begin(self.progress)

    def to_the_end(self, outputs: list[str]) -> bool:
        # An undeclared input linked to a node that is not there ends this thread: ComfyUI 0.3.64 hangs so too.
        for node_id in outputs:
            self.agenda.add(node_id)
        while self.agenda:
            try:
                node_id = self.agenda.next()
            except DependencyCycleError as error:
                self._report(self.agenda.stuck()[0], "graph.DependencyCycleError", str(error), [], {})
                return False
            if not self._step(node_id):
                return False
        return True

    def _step(self, node_id: str) -> bool:
        if self.caches.outputs.get(node_id) is not None:
            ui = self.caches.ui.get(node_id) or {}
            self._tell("executed", node_id, output=ui.get("output"))
            self.progress.finish(node_id)
            self.agenda.done(node_id)
            return True
        values: Inputs = {}
        try:
            finished = self._run_node(node_id, values)
        except InterruptProcessingException:
            logging.info("Processing interrupted")
            about = {"prompt_id": self.prompt_id, **self._blame(node_id)}
            self.executor.add_message("execution_interrupted", about, broadcast=True)
            return False
        except Exception as error:
            self._fail(node_id, error, values)
            return False
        if finished:
            self.progress.finish(node_id)
            self.executed.append(node_id)
            self.agenda.done(node_id)
        return True

    def _run_node(self, node_id: str, values: Inputs) -> bool:
        """Answer whether the node ran; it may first ask for an input that it left for later."""
        self.progress.start(node_id)
        node_type = node_class(self.prompt, node_id)
        inputs = self.prompt[node_id]["inputs"]
        gathered, missing = gather_inputs(
            node_type,
            node_id,
            inputs,
            output_of=self.caches.outputs.get,
            prompt=self.prompt,
            extra_data=self.extra_data,
        )
        values.update(gathered)
        self.server.last_node_id = node_id
        self._tell("executing", node_id)
        sabotage.moment(self.server, "executing")
        node = self.caches.objects.get(node_id)
        if node is None:
            node = node_type()
            self.caches.objects.set(node_id, node)
        if self._asks_for_more(node, node_id, values, missing):
            return False
        sabotage.before_node(self.server, self.prompt[node_id]["class_type"])
        results = call_node(node, node_type.FUNCTION, values, before_each=throw_if_interrupted)
        passed, ui = split_results(results, node_type)
        if ui:
            self._show(node_id, ui)
        self.caches.outputs.set(node_id, passed)
        return True

    def _asks_for_more(self, node: Any, node_id: str, values: Inputs, missing: set[str]) -> bool:
        if not hasattr(node, "check_lazy_status"):
            return False
        answers = call_node(node, "check_lazy_status", values, before_each=throw_if_interrupted)
        wanted = {name for answer in answers for name in answer or [] if name not in values or name in missing}
        for name in wanted:
            self.agenda.require(self.prompt[node_id]["inputs"][name][0], node_id)
        return bool(wanted)

    def _show(self, node_id: str, ui: dict[str, Any]) -> None:
        meta = {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
        self.caches.ui.set(node_id, {"meta": meta, "output": ui})
        self._tell("executed", node_id, output=ui)

    def _tell(self, event: str, node_id: str, **more: Any) -> None:
        if self.server.client_id is not None:
            data = {"node": node_id, "display_node": node_id, **more, "prompt_id": self.prompt_id}
            self.server.send_sync(event, data, self.server.client_id)

    def _blame(self, node_id: str) -> dict[str, Any]:
        class_type = self.prompt[node_id]["class_type"]
        return {"node_id": node_id, "node_type": class_type, "executed": list(self.executed)}

    def _fail(self, node_id: str, error: Exception, values: Inputs) -> None:
        logging.error("!!! Exception during processing !!! %s", error)
        logging.error(traceback.format_exc())
        tips = ""
        if isinstance(error, OutOfMemoryError):
            tips = _OOM_TIPS
            logging.error("Got an OOM, unloading all loaded models.")
        shown = {name: [_shown_value(one) for one in column] for name, column in values.items()}
        frames = traceback.format_tb(sys.exc_info()[2])
        self._report(node_id, full_type_name(type(error)), f"{error}\n{tips}", frames, shown)

    def _report(self, node_id: str, kind: str, message: str, frames: list[str], shown: dict[str, Any]) -> None:
        about = {
            "prompt_id": self.prompt_id,
            **self._blame(node_id),
            "exception_message": message,
            "exception_type": kind,
            "traceback": frames,
            "current_inputs": shown,
            "current_outputs": list(self.prompt),
        }
        self.executor.add_message("execution_error", about)


def _shown_value(value: Any) -> Any:
    return value if isinstance(value, int | float | str | type(None)) else str(value)


def prompt_worker(queue: PromptQueue, server: PromptServer) -> None:
    """Work the queue for ever; the body of ComfyUI's one executing thread."""
    executor = PromptExecutor(server)
    while True:
        taken = queue.get()
        if taken is not None:
            _work(executor, queue, *taken)
        flags = queue.take_flags()
        if flags.get("free_memory"):
            executor.reset()
            gc.collect()


def _work(executor: PromptExecutor, queue: PromptQueue, item: tuple[Any, ...], number: int) -> None:
    server, started = executor.server, time.perf_counter()
    _, prompt_id, prompt, extra_data, outputs = item
    server.begin_prompt(prompt_id)
    executor.execute(prompt, prompt_id, extra_data, outputs)
    ended = "success" if executor.success else "error"
    status = ExecutionStatus(ended, executor.success, executor.status_messages)
    queue.task_done(number, executor.history_result, status)
    if server.client_id is not None:
        server.send_sync("executing", {"node": None, "prompt_id": prompt_id}, server.client_id)
    log_duration(time.perf_counter() - started)
    sabotage.after_prompt(server)
