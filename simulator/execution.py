"""Execution of prompts: one thread, one prompt at a time, every message in ComfyUI's order."""

from __future__ import annotations

import gc
import logging
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

import fault_injection
from comfy import model_management
from comfy_execution.caching import CacheSet
from comfy_execution.graph import DependencyCycleError, ExecutionList, Prompt, node_class
from comfy_execution.node_calls import Inputs, get_input_data, get_output_from_returns, map_node_over_list
from comfy_execution.progress import ProgressRegistry
from comfy_execution.validation import full_type_name, validate_prompt
from prompt_queue import ExecutionStatus, PromptQueue

if TYPE_CHECKING:
    from server import PromptServer

__all__ = ["PromptExecutor", "PromptQueue", "prompt_worker", "validate_prompt"]

_OOM_TIPS = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have"
    " accidentally set the batch_size to a large number."
)


class PromptExecutor:
    """Executes prompts; keeps the caches between them, and the messages of the last one."""

    def __init__(self, server: PromptServer) -> None:
        self.server = server
        self.reset()

    def reset(self) -> None:
        self.caches = CacheSet()
        self.success = True
        self.status_messages: list[tuple[str, dict[str, Any]]] = []
        self.history_result: dict[str, Any] = {}

    def add_message(self, event: str, data: dict[str, Any], broadcast: bool = False) -> None:
        data = {**data, "timestamp": int(time.time() * 1000)}
        self.status_messages.append((event, data))
        if self.server.client_id is not None or broadcast:
            self.server.send_sync(event, data, self.server.client_id)

    def execute(self, prompt: Prompt, prompt_id: str, extra_data: dict[str, Any], outputs: list[str]) -> None:
        model_management.interrupt_current_processing(False)
        self.server.client_id = extra_data.get("client_id")
        self.status_messages = []
        self.add_message("execution_start", {"prompt_id": prompt_id})
        fault_injection.on_moment(self.server, "execution_start")
        self.caches.set_prompt(prompt)
        cached = [node_id for node_id in prompt if self.caches.outputs.get(node_id) is not None]
        self.add_message("execution_cached", {"nodes": cached, "prompt_id": prompt_id})
        run = _PromptRun(self, prompt, prompt_id, extra_data)
        self.success = run.execute(outputs)
        if self.success:
            fault_injection.on_moment(self.server, "before_success")
            self.add_message("execution_success", {"prompt_id": prompt_id})
        self.history_result = self._history_result(prompt)
        self.server.last_node_id = None

    def _history_result(self, prompt: Prompt) -> dict[str, Any]:
        shown = {node_id: ui for node_id in prompt if (ui := self.caches.ui.get(node_id)) is not None}
        return {
            "outputs": {node_id: ui["output"] for node_id, ui in shown.items()},
            "meta": {node_id: ui["meta"] for node_id, ui in shown.items()},
        }


class _PromptRun:
    """The execution of one prompt, node by node."""

    def __init__(self, executor: PromptExecutor, prompt: Prompt, prompt_id: str, extra_data: dict[str, Any]) -> None:
        self.executor = executor
        self.server = executor.server
        self.caches = executor.caches
        self.prompt = prompt
        self.prompt_id = prompt_id
        self.extra_data = extra_data
        self.executed: list[str] = []
        self.execution_list = ExecutionList(prompt, lambda node_id: self.caches.outputs.get(node_id) is not None)
        self.progress = ProgressRegistry(prompt_id, self.server)
        ProgressRegistry.instance = self.progress

    def execute(self, outputs: list[str]) -> bool:
        """Execute the outputs and all they need. Return False if a node failed or the prompt was interrupted."""
        # An undeclared input linked to a missing node ends this thread with an error, as in ComfyUI 0.3.64.
        for node_id in outputs:
            self.execution_list.add_node(node_id)
        while not self.execution_list.is_empty():
            try:
                node_id = self.execution_list.stage_node_execution()
            except DependencyCycleError as error:
                self._add_error(
                    self.execution_list.get_nodes_in_cycle()[0], "graph.DependencyCycleError", str(error), [], {}
                )
                return False
            if not self._execute_node(node_id):
                return False
        return True

    def _execute_node(self, node_id: str) -> bool:
        if self.caches.outputs.get(node_id) is not None:
            ui = self.caches.ui.get(node_id) or {}
            self._send("executed", node_id, output=ui.get("output"))
            self.progress.finish_progress(node_id)
            self.execution_list.pop_node(node_id)
            return True
        values: Inputs = {}
        try:
            finished = self._run_node(node_id, values)
        except model_management.InterruptProcessingException:
            logging.info("Processing interrupted")
            about = {"prompt_id": self.prompt_id, **self._node_fields(node_id)}
            self.executor.add_message("execution_interrupted", about, broadcast=True)
            return False
        except Exception as error:
            self._handle_execution_error(node_id, error, values)
            return False
        if finished:
            self.progress.finish_progress(node_id)
            self.executed.append(node_id)
            self.execution_list.pop_node(node_id)
        return True

    def _run_node(self, node_id: str, values: Inputs) -> bool:
        """Run the node. Return False if it first needs a lazy input."""
        self.progress.start_progress(node_id)
        node_type = node_class(self.prompt, node_id)
        inputs = self.prompt[node_id]["inputs"]
        gathered, missing = get_input_data(
            node_type,
            node_id,
            inputs,
            output_of=self.caches.outputs.get,
            prompt=self.prompt,
            extra_data=self.extra_data,
        )
        values.update(gathered)
        self.server.last_node_id = node_id
        self._send("executing", node_id)
        fault_injection.on_moment(self.server, "executing")
        node = self.caches.objects.get(node_id)
        if node is None:
            node = node_type()
            self.caches.objects.set(node_id, node)
        if self._needs_lazy_inputs(node, node_id, values, missing):
            return False
        fault_injection.on_node(self.server, self.prompt[node_id]["class_type"])
        results = map_node_over_list(node, node_type.FUNCTION, values, allow_interrupt=True)
        outputs, ui = get_output_from_returns(results, node_type)
        if ui:
            self._set_ui(node_id, ui)
        self.caches.outputs.set(node_id, outputs)
        return True

    def _needs_lazy_inputs(self, node: Any, node_id: str, values: Inputs, missing: set[str]) -> bool:
        if not hasattr(node, "check_lazy_status"):
            return False
        answers = map_node_over_list(node, "check_lazy_status", values, allow_interrupt=True)
        needed = {name for answer in answers for name in answer or [] if name not in values or name in missing}
        for name in needed:
            self.execution_list.add_strong_link(self.prompt[node_id]["inputs"][name][0], node_id)
        return bool(needed)

    def _set_ui(self, node_id: str, ui: dict[str, Any]) -> None:
        meta = {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
        self.caches.ui.set(node_id, {"meta": meta, "output": ui})
        self._send("executed", node_id, output=ui)

    def _send(self, event: str, node_id: str, **more: Any) -> None:
        if self.server.client_id is not None:
            data = {"node": node_id, "display_node": node_id, **more, "prompt_id": self.prompt_id}
            self.server.send_sync(event, data, self.server.client_id)

    def _node_fields(self, node_id: str) -> dict[str, Any]:
        class_type = self.prompt[node_id]["class_type"]
        return {"node_id": node_id, "node_type": class_type, "executed": list(self.executed)}

    def _handle_execution_error(self, node_id: str, error: Exception, values: Inputs) -> None:
        logging.error("!!! Exception during processing !!! %s", error)
        logging.error(traceback.format_exc())
        tips = ""
        if isinstance(error, model_management.OutOfMemoryError):
            tips = _OOM_TIPS
            logging.error("Got an OOM, unloading all loaded models.")
        shown = {name: [format_value(one) for one in column] for name, column in values.items()}
        frames = traceback.format_tb(sys.exc_info()[2])
        self._add_error(node_id, full_type_name(type(error)), f"{error}\n{tips}", frames, shown)

    def _add_error(self, node_id: str, kind: str, message: str, frames: list[str], shown: dict[str, Any]) -> None:
        about = {
            "prompt_id": self.prompt_id,
            **self._node_fields(node_id),
            "exception_message": message,
            "exception_type": kind,
            "traceback": frames,
            "current_inputs": shown,
            "current_outputs": list(self.prompt),
        }
        self.executor.add_message("execution_error", about)


def format_value(value: Any) -> Any:
    return value if isinstance(value, int | float | str | type(None)) else str(value)


def prompt_worker(queue: PromptQueue, server: PromptServer) -> None:
    """Execute the queue's prompts for ever, in a thread of its own."""
    executor = PromptExecutor(server)
    while True:
        next_item = queue.get()
        if next_item is not None:
            _execute_item(executor, queue, *next_item)
        flags = queue.get_flags()
        if flags.get("free_memory"):
            executor.reset()
            gc.collect()


def _execute_item(executor: PromptExecutor, queue: PromptQueue, item: tuple[Any, ...], number: int) -> None:
    server, started = executor.server, time.perf_counter()
    _, prompt_id, prompt, extra_data, outputs = item
    server.begin_prompt(prompt_id)
    executor.execute(prompt, prompt_id, extra_data, outputs)
    ended = "success" if executor.success else "error"
    status = ExecutionStatus(ended, executor.success, executor.status_messages)
    queue.task_done(number, executor.history_result, status)
    if server.client_id is not None:
        server.send_sync("executing", {"node": None, "prompt_id": prompt_id}, server.client_id)
    logging.info("Prompt executed in %.2f seconds", time.perf_counter() - started)
    fault_injection.on_prompt_end(server)
