"""Calls of a node's functions: collecting inputs, one call for each list element, merging the results."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import nodes
from comfy_execution.graph import get_input_info, is_link

Inputs: TypeAlias = dict[str, list[Any]]

_HIDDEN_FROM_EXTRA = {
    "EXTRA_PNGINFO": "extra_pnginfo",
    "AUTH_TOKEN_COMFY_ORG": "auth_token_comfy_org",
    "API_KEY_COMFY_ORG": "api_key_comfy_org",
}


def constant_inputs(node_type: Any, node_id: str, inputs: dict[str, Any]) -> Inputs:
    """Return the inputs known before anything has run: a link is None."""
    return get_input_data(node_type, node_id, inputs, output_of=lambda _: None, prompt={}, extra_data={})[0]


def get_input_data(
    node_type: Any,
    node_id: str,
    inputs: dict[str, Any],
    *,
    output_of: Callable[[str], list[list[Any]] | None],
    prompt: dict[str, Any],
    extra_data: dict[str, Any],
) -> tuple[Inputs, set[str]]:
    """Return each input as the list of its values, and the names of inputs whose source has not run (lazy ones)."""
    declaration = node_type.INPUT_TYPES()
    values: Inputs = {}
    missing: set[str] = set()
    for name, value in inputs.items():
        _, category, options = get_input_info(declaration, name)
        if is_link(value) and not options.get("rawLink", False):
            outputs = output_of(value[0])
            if outputs is None or value[1] >= len(outputs):
                missing.add(name)
                values[name] = [None]
            else:
                values[name] = outputs[value[1]]
        elif category is not None:
            values[name] = [value]
    for name, kind in declaration.get("hidden", {}).items():
        if kind == "PROMPT":
            values[name] = [prompt]
        elif kind == "UNIQUE_ID":
            values[name] = [node_id]
        elif kind in _HIDDEN_FROM_EXTRA:
            values[name] = [extra_data.get(_HIDDEN_FROM_EXTRA[kind])]
    return values, missing


def map_node_over_list(node: Any, function: str, values: Inputs, allow_interrupt: bool = False) -> list[Any]:
    """Call a function once for each element of the longest list; shorter lists repeat their last element."""
    call = getattr(node, function)
    if getattr(node, "INPUT_IS_LIST", False):
        slices: list[dict[str, Any]] = [dict(values)]
    else:
        longest = max(map(len, values.values()), default=0)
        slices = [{name: v[min(i, len(v) - 1)] for name, v in values.items()} for i in range(longest)] or [{}]
    results = []
    for arguments in slices:
        if allow_interrupt:
            nodes.before_node_execution()
        results.append(_await_result(call(**arguments)))
    return results


def _await_result(result: Any) -> Any:
    if not inspect.iscoroutine(result):
        return result
    # Validation calls from inside the server's own loop, where a second one cannot run.
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(asyncio.run, result).result()


def get_output_from_returns(results: list[Any], node_type: Any) -> tuple[list[list[Any]], dict[str, Any]]:
    """Return the outputs, as lists of one element a call, and the UI results."""
    ui_results = [one["ui"] for one in results if isinstance(one, dict) and "ui" in one]
    if any(isinstance(one, dict) and "expand" in one for one in results):
        raise NotImplementedError("The simulator does not expand nodes into subgraphs")
    outputs = [
        one["result"] if isinstance(one, dict) else one
        for one in results
        if not isinstance(one, dict) or "result" in one
    ]
    ui = {key: [entry for one in ui_results for entry in one[key]] for key in ui_results[0]} if ui_results else {}
    return (_merge_result_data(outputs, node_type) if outputs else []), ui


def _merge_result_data(results: list[Any], node_type: Any) -> list[list[Any]]:
    is_list = getattr(node_type, "OUTPUT_IS_LIST", [False] * len(results[0]))
    merged = []
    for slot, spread in zip(range(len(results[0])), is_list, strict=False):
        column = [one[slot] for one in results]
        merged.append([value for values in column for value in values] if spread else column)
    return merged
