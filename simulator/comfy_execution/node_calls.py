"""Calling a node's functions: gathering inputs, spreading lists over calls, merging what comes back."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from comfy_execution.graph import declared, is_link

Inputs: TypeAlias = dict[str, list[Any]]

_HIDDEN_FROM_EXTRA = {
    "EXTRA_PNGINFO": "extra_pnginfo",
    "AUTH_TOKEN_COMFY_ORG": "auth_token_comfy_org",
    "API_KEY_COMFY_ORG": "api_key_comfy_org",
}


def constant_inputs(node_type: Any, node_id: str, inputs: dict[str, Any]) -> Inputs:
    """What is known before anything ran: a link is None."""
    return gather_inputs(node_type, node_id, inputs, output_of=lambda _: None, prompt={}, extra_data={})[0]


def gather_inputs(
    node_type: Any,
    node_id: str,
    inputs: dict[str, Any],
    *,
    output_of: Callable[[str], list[list[Any]] | None],
    prompt: dict[str, Any],
    extra_data: dict[str, Any],
) -> tuple[Inputs, set[str]]:
    """Every input as the list of its values, and the names of those whose source has not run (lazy ones)."""
    declaration = node_type.INPUT_TYPES()
    values: Inputs = {}
    missing: set[str] = set()
    for name, value in inputs.items():
        _, category, options = declared(declaration, name)
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


def call_node(node: Any, function: str, values: Inputs, before_each: Callable[[], None] = lambda: None) -> list[Any]:
    """One call for each element of the longest list; the shorter ones repeat their last."""
    call = getattr(node, function)
    if getattr(node, "INPUT_IS_LIST", False):
        slices: list[dict[str, Any]] = [dict(values)]
    else:
        longest = max(map(len, values.values()), default=0)
        slices = [{name: v[min(i, len(v) - 1)] for name, v in values.items()} for i in range(longest)] or [{}]
    results = []
    for arguments in slices:
        before_each()
        result = call(**arguments)
        results.append(_finish(result))
    return results


def _finish(result: Any) -> Any:
    if not inspect.iscoroutine(result):
        return result
    # Validation asks from inside the server's own loop, where another can't run.
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(asyncio.run, result).result()


def split_results(results: list[Any], node_type: Any) -> tuple[list[list[Any]], dict[str, Any]]:
    """Separate what nodes pass on from what they show. Outputs are lists, one element a call."""
    shown = [one["ui"] for one in results if isinstance(one, dict) and "ui" in one]
    if any(isinstance(one, dict) and "expand" in one for one in results):
        raise NotImplementedError("The simulator does not expand nodes into subgraphs")
    passed = [
        one["result"] if isinstance(one, dict) else one
        for one in results
        if not isinstance(one, dict) or "result" in one
    ]
    ui = {key: [entry for one in shown for entry in one[key]] for key in shown[0]} if shown else {}
    return (_merge(passed, node_type) if passed else []), ui


def _merge(results: list[Any], node_type: Any) -> list[list[Any]]:
    is_list = getattr(node_type, "OUTPUT_IS_LIST", [False] * len(results[0]))
    merged = []
    for slot, spread in zip(range(len(results[0])), is_list, strict=False):
        column = [one[slot] for one in results]
        merged.append([value for values in column for value in values] if spread else column)
    return merged
