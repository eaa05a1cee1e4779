"""What earlier prompts left behind: a node whose inputs (and whose inputs' inputs) are unchanged is not run again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import nodes
from comfy_execution.graph import Prompt, is_link
from comfy_execution.node_calls import call_node, constant_inputs

Signature: TypeAlias = tuple[Any, ...]


class Cache:
    """Results by signature. Only what the current prompt could use is kept, as in ComfyUI's default cache."""

    def __init__(self) -> None:
        self._signatures: dict[str, Any] = {}
        self._values: dict[Any, Any] = {}

    def start(self, signatures: dict[str, Any]) -> None:
        self._signatures = signatures
        wanted = set(signatures.values())
        self._values = {key: value for key, value in self._values.items() if key in wanted}

    def get(self, node_id: str) -> Any:
        return self._values.get(self._signatures.get(node_id))

    def set(self, node_id: str, value: Any) -> None:
        self._values[self._signatures[node_id]] = value


class Caches:
    """Outputs, what was shown of them, and the node objects, which live as long as their id keeps its class."""

    def __init__(self) -> None:
        self.outputs, self.ui, self.objects = Cache(), Cache(), Cache()

    def start(self, prompt: Prompt) -> None:
        signatures = sign(prompt)
        self.outputs.start(signatures)
        self.ui.start(signatures)
        self.objects.start({node_id: (node_id, node["class_type"]) for node_id, node in prompt.items()})


def sign(prompt: Prompt) -> dict[str, Signature]:
    own = {node_id: _Immediate(prompt, node_id) for node_id in prompt}
    return {node_id: _signature(own, node_id) for node_id in prompt}


class _Immediate:
    """One node without its ancestry: class, what IS_CHANGED said, constants, and links still by node id."""

    def __init__(self, prompt: Prompt, node_id: str) -> None:
        node = prompt[node_id]
        node_type = nodes.NODE_CLASS_MAPPINGS[node["class_type"]]
        inputs = sorted(node["inputs"].items())
        self.links: list[tuple[str, str, Any]] = [(name, *value) for name, value in inputs if is_link(value)]
        self.fixed: Signature = (
            node["class_type"],
            _fingerprint(node_type, node_id, node["inputs"]),
            node_id if _is_bound_to_its_id(node_type) else None,
            tuple((name, hashable(value)) for name, value in inputs if not is_link(value)),
        )

    def numbered(self, order: dict[str, int]) -> Signature:
        return (*self.fixed, tuple((name, order[source], slot) for name, source, slot in self.links))


def _signature(own: dict[str, _Immediate], node_id: str) -> Signature:
    # Ancestors by order of discovery, not by id: renumbering a workflow keeps its results.
    order: dict[str, int] = {}
    ancestors = list(_ancestry(own, node_id, order))
    parts = [node_id, *ancestors]
    return tuple(own[one].numbered(order) if one in own else (object(),) for one in parts)


def _ancestry(own: dict[str, _Immediate], node_id: str, order: dict[str, int]) -> Iterable[str]:
    if node_id not in own:
        return
    for _, source, _ in own[node_id].links:
        if source not in order:
            order[source] = len(order)
            yield source
            yield from _ancestry(own, source, order)


def _is_bound_to_its_id(node_type: Any) -> bool:
    return (
        getattr(node_type, "NOT_IDEMPOTENT", False) or "UNIQUE_ID" in node_type.INPUT_TYPES().get("hidden", {}).values()
    )


def _fingerprint(node_type: Any, node_id: str, inputs: dict[str, Any]) -> Any:
    if not hasattr(node_type, "IS_CHANGED"):
        return False
    try:
        return hashable(call_node(node_type, "IS_CHANGED", constant_inputs(node_type, node_id, inputs)))
    except Exception as error:
        logging.warning("WARNING: %s", error)
        return object()


def hashable(value: Any) -> Any:
    """Something to compare by. What can't be compared, NaN among it, equals nothing: its node runs every time."""
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN
        return object()
    if isinstance(value, int | float | str | type(None)):
        return value
    if isinstance(value, Mapping):
        return frozenset((name, hashable(one)) for name, one in value.items())
    if isinstance(value, list | tuple):
        return tuple(hashable(one) for one in value)
    return object()
