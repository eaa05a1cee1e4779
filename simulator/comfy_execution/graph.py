"""The prompt as a graph: links, the declarations of inputs, and the order of execution."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import nodes

Prompt: TypeAlias = dict[str, dict[str, Any]]


class NodeNotFoundError(Exception):
    """A link leads to a node that is not in the prompt."""


class DependencyCycleError(Exception):
    """Each remaining node waits for another one."""


def is_link(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )


def get_input_info(declaration: dict[str, Any], name: str) -> tuple[Any, str | None, dict[str, Any]]:
    """Return the type, category and options that a node declares for an input; category None: it declares none."""
    for category in ("required", "optional", "hidden"):
        known = declaration.get(category, {})
        if name in known:  # `in`, as ComfyUI: some packs' dictionaries claim to hold every key
            info = known[name]
            return info[0], category, info[1] if len(info) > 1 else {}
    return None, None, {}


def node_class(prompt: Prompt, node_id: str) -> Any:
    return nodes.NODE_CLASS_MAPPINGS[prompt[node_id]["class_type"]]


def is_output(node_type: Any) -> bool:
    return getattr(node_type, "OUTPUT_NODE", False) is True


class ExecutionList:
    """The nodes still to run, in order: dependencies first, and of those that are ready the nearest to an output."""

    def __init__(self, prompt: Prompt, is_cached: Callable[[str], bool]) -> None:
        self._prompt = prompt
        self._is_cached = is_cached
        self._blocked_by: dict[str, set[str]] = {}
        self._blocking: dict[str, dict[str, None]] = {}

    def is_empty(self) -> bool:
        return not self._blocked_by

    def add_node(self, node_id: str) -> None:
        """Add a node and all that it needs; cached nodes are left out."""
        todo, links = [node_id], []
        while todo:
            current = todo.pop()
            if current in self._blocked_by:
                continue
            self._blocked_by[current], self._blocking[current] = set(), {}
            for source in self._eager_sources(current):
                todo.append(source)
                links.append((source, current))
        for source, target in links:
            self.add_strong_link(source, target)

    def add_strong_link(self, source: str, target: str) -> None:
        if self._is_cached(source):
            return
        self.add_node(source)
        self._blocked_by[target].add(source)
        self._blocking[source][target] = None

    def _eager_sources(self, node_id: str) -> list[str]:
        if node_id not in self._prompt:
            raise NodeNotFoundError(f"Node {node_id} not found")
        declaration = node_class(self._prompt, node_id).INPUT_TYPES()
        links = ((name, value) for name, value in self._prompt[node_id]["inputs"].items() if is_link(value))
        lazy = {
            name: get_input_info(declaration, name)[2].get("lazy", False) for name in self._prompt[node_id]["inputs"]
        }
        return [value[0] for name, value in links if not lazy[name] and not self._is_cached(value[0])]

    def stage_node_execution(self) -> str:
        ready = [node_id for node_id, needs in self._blocked_by.items() if not needs]
        if not ready:
            raise DependencyCycleError("Dependency cycle detected")
        return self._ux_friendly_pick_node(ready)

    def _ux_friendly_pick_node(self, ready: list[str]) -> str:
        def is_output_node(node_id: str) -> bool:
            return is_output(node_class(self._prompt, node_id))

        def is_async(node_id: str) -> bool:
            node_type = node_class(self._prompt, node_id)
            return inspect.iscoroutinefunction(getattr(node_type, node_type.FUNCTION))

        distances: tuple[Callable[[str], bool], ...] = (
            lambda one: is_output_node(one) or is_async(one),
            lambda one: any(map(is_output_node, self._blocking[one])),
            lambda one: any(is_output_node(far) for near in self._blocking[one] for far in self._blocking[near]),
        )
        for close_enough in distances:
            for node_id in ready:
                if close_enough(node_id):
                    return node_id
        return ready[0]

    def pop_node(self, node_id: str) -> None:
        del self._blocked_by[node_id]
        for target in self._blocking.pop(node_id):
            self._blocked_by[target].discard(node_id)

    def get_nodes_in_cycle(self) -> list[str]:
        return list(self._blocked_by)
