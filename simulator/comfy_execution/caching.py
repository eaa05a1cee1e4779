"""The caches between prompts: a node is not run again while its inputs and those of its ancestors are unchanged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import nodes
from comfy_execution.graph import Prompt, is_link
from comfy_execution.node_calls import constant_inputs, map_node_over_list

Signature: TypeAlias = tuple[Any, ...]


class BasicCache:
    """Values by signature. Only those that the current prompt could use are kept, as in ComfyUI's default cache."""

    def __init__(self) -> None:
        self._signatures: dict[str, Any] = {}
        self._values: dict[Any, Any] = {}

    def set_prompt(self, signatures: dict[str, Any]) -> None:
        self._signatures = signatures
        usable = set(signatures.values())
        self._values = {key: value for key, value in self._values.items() if key in usable}

    def get(self, node_id: str) -> Any:
        return self._values.get(self._signatures.get(node_id))

    def set(self, node_id: str, value: Any) -> None:
        self._values[self._signatures[node_id]] = value


class CacheSet:
    """The outputs, the UI results, and the node objects, which live as long as their id keeps its class."""

    def __init__(self) -> None:
        self.outputs, self.ui, self.objects = BasicCache(), BasicCache(), BasicCache()

    def set_prompt(self, prompt: Prompt) -> None:
        signatures = get_node_signatures(prompt)
        self.outputs.set_prompt(signatures)
        self.ui.set_prompt(signatures)
        self.objects.set_prompt({node_id: (node_id, node["class_type"]) for node_id, node in prompt.items()})


def get_node_signatures(prompt: Prompt) -> dict[str, Signature]:
    immediate = {node_id: _ImmediateSignature(prompt, node_id) for node_id in prompt}
    return {node_id: _signature(immediate, node_id) for node_id in prompt}


class _ImmediateSignature:
    """The signature of one node without its ancestors: class, IS_CHANGED, constants, and links by node id."""

    def __init__(self, prompt: Prompt, node_id: str) -> None:
        node = prompt[node_id]
        node_type = nodes.NODE_CLASS_MAPPINGS[node["class_type"]]
        inputs = sorted(node["inputs"].items())
        self.links: list[tuple[str, str, Any]] = [(name, *value) for name, value in inputs if is_link(value)]
        self.fixed: Signature = (
            node["class_type"],
            _is_changed(node_type, node_id, node["inputs"]),
            node_id if _include_unique_id_in_input(node_type) else None,
            tuple((name, to_hashable(value)) for name, value in inputs if not is_link(value)),
        )

    def numbered(self, order: dict[str, int]) -> Signature:
        return (*self.fixed, tuple((name, order[source], slot) for name, source, slot in self.links))


def _signature(immediate: dict[str, _ImmediateSignature], node_id: str) -> Signature:
    # Ancestors by order of discovery, not by id: renumbering a workflow keeps its results.
    order: dict[str, int] = {}
    ancestors = list(_ordered_ancestry(immediate, node_id, order))
    parts = [node_id, *ancestors]
    return tuple(immediate[one].numbered(order) if one in immediate else (object(),) for one in parts)


def _ordered_ancestry(immediate: dict[str, _ImmediateSignature], node_id: str, order: dict[str, int]) -> Iterable[str]:
    if node_id not in immediate:
        return
    for _, source, _ in immediate[node_id].links:
        if source not in order:
            order[source] = len(order)
            yield source
            yield from _ordered_ancestry(immediate, source, order)


def _include_unique_id_in_input(node_type: Any) -> bool:
    return (
        getattr(node_type, "NOT_IDEMPOTENT", False) or "UNIQUE_ID" in node_type.INPUT_TYPES().get("hidden", {}).values()
    )


def _is_changed(node_type: Any, node_id: str, inputs: dict[str, Any]) -> Any:
    if not hasattr(node_type, "IS_CHANGED"):
        return False
    try:
        return to_hashable(map_node_over_list(node_type, "IS_CHANGED", constant_inputs(node_type, node_id, inputs)))
    except Exception as error:
        logging.warning("WARNING: %s", error)
        return object()


def to_hashable(value: Any) -> Any:
    """Return a key to compare by. A value that cannot be compared, as NaN, equals no other: its node always runs."""
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN
        return object()
    if isinstance(value, int | float | str | type(None)):
        return value
    if isinstance(value, Mapping):
        return frozenset((name, to_hashable(one)) for name, one in value.items())
    if isinstance(value, list | tuple):
        return tuple(to_hashable(one) for one in value)
    return object()
