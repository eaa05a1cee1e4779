"""The prompt as a graph: what is a link, what an input is declared as, and which node runs next."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import nodes

Prompt: TypeAlias = dict[str, dict[str, Any]]


class NodeNotFoundError(Exception):
    """A link leads to a node that the prompt does not have."""


class DependencyCycleError(Exception):
    """Every node that is left waits for another one."""


def is_link(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )


def declared(declaration: dict[str, Any], name: str) -> tuple[Any, str | None, dict[str, Any]]:
    """Type, category and options under which a node declares an input; the category is None for one it does not."""
    for category in ("required", "optional", "hidden"):
        known = declaration.get(category, {})
        if name in known:  # asked as ComfyUI does: some packs' own dictionaries have whatever is asked for
            info = known[name]
            return info[0], category, info[1] if len(info) > 1 else {}
    return None, None, {}


def node_class(prompt: Prompt, node_id: str) -> Any:
    return nodes.NODE_CLASS_MAPPINGS[prompt[node_id]["class_type"]]


def is_output(node_type: Any) -> bool:
    return getattr(node_type, "OUTPUT_NODE", False) is True


class Agenda:
    """Nodes that still have to run, and the order to run them in: dependencies first, then whatever shows soonest."""

    def __init__(self, prompt: Prompt, is_cached: Callable[[str], bool]) -> None:
        self._prompt = prompt
        self._is_cached = is_cached
        self._waits_for: dict[str, set[str]] = {}
        self._feeds: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._waits_for)

    def add(self, node_id: str) -> None:
        """Put a node and everything it needs on the list; a need that is cached is no need."""
        todo, links = [node_id], []
        while todo:
            current = todo.pop()
            if current in self._waits_for:
                continue
            self._waits_for[current], self._feeds[current] = set(), {}
            for source in self._eager_sources(current):
                todo.append(source)
                links.append((source, current))
        for source, target in links:
            self.require(source, target)

    def require(self, source: str, target: str) -> None:
        if self._is_cached(source):
            return
        self.add(source)
        self._waits_for[target].add(source)
        self._feeds[source][target] = None

    def _eager_sources(self, node_id: str) -> list[str]:
        if node_id not in self._prompt:
            raise NodeNotFoundError(f"Node {node_id} not found")
        declaration = node_class(self._prompt, node_id).INPUT_TYPES()
        links = ((name, value) for name, value in self._prompt[node_id]["inputs"].items() if is_link(value))
        lazy = {name: declared(declaration, name)[2].get("lazy", False) for name in self._prompt[node_id]["inputs"]}
        return [value[0] for name, value in links if not lazy[name] and not self._is_cached(value[0])]

    def next(self) -> str:
        ready = [node_id for node_id, needs in self._waits_for.items() if not needs]
        if not ready:
            raise DependencyCycleError("Dependency cycle detected")
        return self._soonest_visible(ready)

    def _soonest_visible(self, ready: list[str]) -> str:
        def shows(node_id: str) -> bool:
            return is_output(node_class(self._prompt, node_id))

        def is_async(node_id: str) -> bool:
            node_type = node_class(self._prompt, node_id)
            return inspect.iscoroutinefunction(getattr(node_type, node_type.FUNCTION))

        distances: tuple[Callable[[str], bool], ...] = (
            lambda one: shows(one) or is_async(one),
            lambda one: any(map(shows, self._feeds[one])),
            lambda one: any(shows(far) for near in self._feeds[one] for far in self._feeds[near]),
        )
        for close_enough in distances:
            for node_id in ready:
                if close_enough(node_id):
                    return node_id
        return ready[0]

    def done(self, node_id: str) -> None:
        del self._waits_for[node_id]
        for target in self._feeds.pop(node_id):
            self._waits_for[target].discard(node_id)

    def stuck(self) -> list[str]:
        return list(self._waits_for)
