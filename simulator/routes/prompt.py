"""The routes of prompts: posting, the queue, history, interrupting, freeing memory."""

from __future__ import annotations

import json
import logging
import uuid
from typing import TYPE_CHECKING, Any

from aiohttp import web

import fault_injection
from comfy.model_management import interrupt_current_processing
from comfy_execution.validation import problem, validate_prompt
from faults import faults

if TYPE_CHECKING:
    from server import PromptServer

_NO_PROMPT = problem("no_prompt", "No prompt provided", "No prompt provided", {})


def add_routes(server: PromptServer) -> None:
    handlers = _Handlers(server)
    routes, queue = server.routes, server.prompt_queue
    routes.post("/prompt")(handlers.post_prompt)
    routes.post("/queue")(handlers.post_queue)
    routes.post("/history")(handlers.post_history)
    routes.post("/interrupt")(handlers.post_interrupt)
    routes.post("/free")(handlers.post_free)

    @routes.get("/prompt")
    async def get_prompt(_: web.Request) -> web.Response:
        return web.json_response(server.get_queue_info())

    @routes.get("/queue")
    async def get_queue(_: web.Request) -> web.Response:
        running, pending = queue.get_current_queue()
        return web.json_response({"queue_running": running, "queue_pending": pending})

    @routes.get("/history")
    async def get_history(request: web.Request) -> web.Response:
        most = request.query.get("max_items")
        offset = int(request.query.get("offset", -1))
        return web.json_response(queue.get_history(max_items=None if most is None else int(most), offset=offset))

    @routes.get("/history/{prompt_id}")
    async def get_one(request: web.Request) -> web.Response:
        return web.json_response(queue.get_history(prompt_id=request.match_info["prompt_id"]))


class _Handlers:
    """The handlers that change state."""

    def __init__(self, server: PromptServer) -> None:
        self.server = server
        self.queue = server.prompt_queue

    async def post_prompt(self, request: web.Request) -> web.StreamResponse:
        logging.info("got prompt")
        data = await request.json()
        if "prompt" not in data:
            self.server.number += 1
            return web.json_response({"error": _NO_PROMPT, "node_errors": {}}, status=400)
        number = self._number(data)
        prompt_id = str(data.get("prompt_id", uuid.uuid4()))
        result = validate_prompt(data["prompt"], data.get("partial_execution_targets"))
        if not result.valid:
            logging.warning("invalid prompt: %s", result.error)
            return web.json_response({"error": result.error, "node_errors": result.node_errors}, status=400)
        extra_data = data.get("extra_data", {})
        if "client_id" in data:
            extra_data["client_id"] = data["client_id"]
        response = web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": result.node_errors})
        if faults.take("die", at="on_prompt"):
            await _answer_and_die(request, response)
        self.queue.put((number, prompt_id, data["prompt"], extra_data, result.outputs))
        return response

    def _number(self, data: dict[str, Any]) -> float:
        if "number" in data:
            return float(data["number"])
        number = -self.server.number if data.get("front") else self.server.number
        self.server.number += 1
        return number

    async def post_queue(self, request: web.Request) -> web.Response:
        data = await request.json()
        if data.get("clear"):
            self.queue.wipe_queue()
        for prompt_id in data.get("delete", ()):
            self.queue.delete_queue_item(prompt_id)
        return web.Response()

    async def post_history(self, request: web.Request) -> web.Response:
        data = await request.json()
        if data.get("clear"):
            self.queue.wipe_history()
        for prompt_id in data.get("delete", ()):
            self.queue.delete_history_item(prompt_id)
        return web.Response()

    async def post_interrupt(self, request: web.Request) -> web.Response:
        try:
            data = await request.json()
        except json.JSONDecodeError:
            data = {}
        prompt_id = data.get("prompt_id")
        if not prompt_id:
            logging.info("Global interrupt (no prompt_id specified)")
            interrupt_current_processing()
        elif any(item[1] == prompt_id for item in self.queue.get_current_queue()[0]):
            logging.info("Interrupting prompt %s", prompt_id)
            interrupt_current_processing()
        else:
            logging.info("Prompt %s is not currently running, skipping interrupt", prompt_id)
        return web.Response()

    async def post_free(self, request: web.Request) -> web.Response:
        data = await request.json()
        for name in ("unload_models", "free_memory"):
            if data.get(name):
                self.queue.set_flag(name, data[name])
        return web.Response()


async def _answer_and_die(request: web.Request, response: web.Response) -> None:
    await response.prepare(request)
    await response.write_eof()
    fault_injection.die("right after it took a prompt")
