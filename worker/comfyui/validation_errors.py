"""ComfyUI's validation errors as the worker's: which node, which input, what to do. Pure.

ComfyUI rejects a prompt in three ways (recorded from 0.3.64): 400 with an ``error`` about the whole prompt, 400 with
``node_errors``, and 200 with ``node_errors``, which means that part of the prompt was dropped and the rest runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from worker.errors import Code, WorkerError
from worker.models.prompt_names import is_model_name, nearest

Options = Mapping[tuple[str, str], list[str]]
"""(node class, input) -> its choices in this ComfyUI."""

Body = dict[str, Any]


def validation_error(status: int, body: Body, targets: Collection[str] | None, options: Options) -> WorkerError | None:
    """Return the error in a ``/prompt`` answer; None if the whole prompt runs.

    Args:
        status: HTTP status of the answer.
        body: its JSON (empty when it had none).
        targets: the only outputs that the caller asked for, if any: errors of other nodes are then ignored.
        options: the lists that ComfyUI omitted; :func:`omitted_lists` names them.
    """
    node_errors = _node_errors(body)
    if status == 200:
        node_errors = _of_targets(node_errors, targets)
        return _from_nodes(node_errors, options) if node_errors else None
    if node_errors:
        return _from_nodes(node_errors, options)
    return _from_whole_prompt(status, body)


def omitted_lists(body: Body) -> list[tuple[str, str]]:
    """Return (node class, input) of each list with over 20 entries: ComfyUI omits those from its errors."""
    found = []
    for node in _node_errors(body).values():
        for error in _errors(node):
            extra = _extra(error)
            if error.get("type") == "value_not_in_list" and choices_of(extra.get("input_config")) is None:
                found.append((str(node.get("class_type")), str(extra.get("input_name"))))
    return found


def _node_errors(body: Body) -> dict[str, Body]:
    found = body.get("node_errors")
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def _list(node: Body, name: str) -> list[Any]:
    found = node.get(name)
    return found if isinstance(found, list) else []


def _errors(node: Body) -> list[Body]:
    return [error for error in _list(node, "errors") if isinstance(error, dict)]


def _extra(error: Body) -> Body:
    found = error.get("extra_info")
    return found if isinstance(found, dict) else {}


def _of_targets(node_errors: dict[str, Body], targets: Collection[str] | None) -> dict[str, Body]:
    if targets is None:
        return node_errors
    return {k: v for k, v in node_errors.items() if any(target in _list(v, "dependent_outputs") for target in targets)}


def _from_whole_prompt(status: int, body: Body) -> WorkerError:
    error = body.get("error")
    if not isinstance(error, dict):
        return WorkerError(
            Code.PROMPT_INVALID,
            f"ComfyUI answered {status} to the prompt without a reason",
            "Its last log lines are in details. Often a node's own validation crashed on an input.",
        )
    kind, message = str(error.get("type")), str(error.get("message", ""))
    node_id = str(error.get("details", "")).removeprefix("Node ID '#").removesuffix("'")
    if kind == "prompt_no_outputs":
        return WorkerError(Code.NO_OUTPUT, "the prompt has no node that saves or shows anything")
    if kind in ("invalid_prompt", "missing_node_type") and "does not exist" in message + str(error.get("details")):
        extra = _extra(error)
        named = message.removeprefix("Cannot execute because node ").split(" does not")[0]
        class_type = extra.get("class_type") or named
        node_id = str(extra.get("node_id") or node_id)
        return WorkerError(
            Code.NODE_MISSING,
            f"node {node_id} is a {class_type}, which this ComfyUI does not have",
            details={"node_id": node_id, "class_type": class_type},
        )
    return WorkerError(Code.PROMPT_INVALID, f"{message} {error.get('details', '')}".strip(), details={"comfyui": error})


def _from_nodes(node_errors: dict[str, Body], options: Options) -> WorkerError:
    """Return the gravest of all nodes' errors, with the others in its details."""
    found = [
        _from_node(node_id, node, error, options) for node_id, node in node_errors.items() for error in _errors(node)
    ]
    if not found:
        return WorkerError(Code.PROMPT_INVALID, "ComfyUI rejected the prompt", details={"node_errors": node_errors})
    order = (Code.MODEL_MISSING, Code.INPUT_MISSING, Code.PROMPT_INVALID)
    found.sort(key=lambda error: order.index(error.code))
    first, *others = found
    if others:
        first.message += f" (and {len(others)} more: {'; '.join(other.message for other in others[:3])})"
    first.details["node_errors"] = node_errors
    return WorkerError(first.code, first.message, first.hint, details=first.details)


def _from_node(node_id: str, node: Body, error: Body, options: Options) -> WorkerError:
    class_type = str(node.get("class_type", "?"))
    extra = _extra(error)
    input_name = str(extra.get("input_name") or str(error.get("details", "")).split(" - ")[0])
    details = {"node_id": node_id, "class_type": class_type, "input": input_name}
    where = f"node {node_id} ({class_type})"
    kind = error.get("type")
    if kind == "value_not_in_list":
        return _not_in_list(where, details, extra, options)
    if kind == "required_input_missing":
        return WorkerError(
            Code.INPUT_MISSING, f"{where} lacks its input {input_name}", "Connect or fill it in.", details=details
        )
    if kind == "custom_validation_failed" and "Invalid " in str(error.get("details")):
        name = str(error["details"]).rpartition(": ")[2]
        return WorkerError(
            Code.INPUT_MISSING,
            f"{where} names {name!r} in its input {input_name}, but there is no such file in the input folder",
            details={**details, "received": name},
        )
    message = f"{where}, input {input_name}: {error.get('message', kind)}"
    if (text := str(error.get("details", ""))) and text != input_name:
        message += f" ({text})"
    return WorkerError(Code.PROMPT_INVALID, message, details=details)


def _not_in_list(where: str, details: Body, extra: Body, options: Options) -> WorkerError:
    received = str(extra.get("received_value", ""))
    names = choices_of(extra.get("input_config"))
    if names is None:
        names = options.get((details["class_type"], details["input"]), [])
    near = nearest(received, names) or sorted(names)[:3]
    details = {**details, "received": received, "candidates": near}
    is_model = is_model_name(received) or any(is_model_name(name) for name in names)
    if is_model:
        have = f"the nearest it has: {', '.join(near)}" if near else "it has none of that kind"
        return WorkerError(
            Code.MODEL_MISSING,
            f"{where} names {received!r} in its input {details['input']}, which this worker does not have ({have})",
            details=details,
        )
    return WorkerError(
        Code.PROMPT_INVALID,
        f"{where}: {received!r} is not a choice of its input {details['input']}",
        f"Nearest choices: {', '.join(near)}." if near else None,
        details=details,
    )


def choices_of(input_config: Any) -> list[str] | None:
    """Return the choices of an input from its description, in ComfyUI's old form or its new one; None without any."""
    if not isinstance(input_config, (list, tuple)) or not input_config:
        return None
    first = input_config[0]
    if isinstance(first, list):
        return [str(name) for name in first]
    second = input_config[1] if len(input_config) > 1 else {}
    choices = second.get("options") if isinstance(second, dict) else None
    return [str(name) for name in choices] if isinstance(choices, list) else None
