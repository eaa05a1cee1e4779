"""Estimated progress for workers that send none: sampler steps x ms per step. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .prompt import Prompt, is_link

_FALLBACK_STEPS = 20
_MOST_STEPS = 1_000_000  # JSON allows Infinity and NaN


@dataclass(frozen=True)
class Sampler:
    """A sampler node and its number of steps."""

    node_id: str
    steps: int


@dataclass(frozen=True)
class Position:
    """The estimated node and step of a run."""

    node_id: str
    step: int
    steps: int
    done: tuple[str, ...]


def execution_order(prompt: Prompt, targets: list[str] | None = None) -> list[str]:
    """Return node ids, each after its inputs. Not recursive: a chain may be longer than Python's stack."""
    order: list[str] = []
    seen: set[str] = set()
    stack = [(node_id, False) for node_id in reversed(targets or list(prompt))]
    while stack:
        node_id, is_ready = stack.pop()
        if is_ready:
            order.append(node_id)
        elif node_id in prompt and node_id not in seen:
            seen.add(node_id)
            stack.append((node_id, True))
            needs = [value[0] for value in prompt[node_id]["inputs"].values() if is_link(value)]
            stack += [(need, False) for need in reversed(needs)]
    return order


def samplers(prompt: Prompt, targets: list[str] | None = None) -> list[Sampler]:
    """Return the samplers in the order they will run."""
    found = []
    for node_id in execution_order(prompt, targets):
        node = prompt[node_id]
        if "sampler" in node["class_type"].lower() and ("steps" in node["inputs"] or "sigmas" in node["inputs"]):
            found.append(Sampler(node_id, max(1, _steps(node, prompt))))
    return found


def _steps(node: dict[str, Any], prompt: Prompt) -> int:
    inputs = node["inputs"]
    if "steps" not in inputs:
        return _number(inputs["sigmas"], prompt, ("steps",))
    steps = _number(inputs["steps"], prompt, ("steps", "value", "int", "number"))
    if "start_at_step" not in inputs:
        return steps
    first = _number(inputs["start_at_step"], prompt, ("value", "int"), 0)
    last = _number(inputs.get("end_at_step", steps), prompt, ("value", "int"), steps)
    return min(last, steps) - first


def _number(value: Any, prompt: Prompt, names: tuple[str, ...], otherwise: int = _FALLBACK_STEPS) -> int:
    """Return a number, following links to other nodes."""
    for _ in range(20):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(min(max(0, value), _MOST_STEPS))
        source = prompt.get(value[0]) if is_link(value) else None
        if source is None:
            break
        inputs = source["inputs"]
        value = next((inputs[name] for name in names if name in inputs), inputs.get("sigmas"))
    return otherwise


def position(plan: list[Sampler], elapsed_ms: float, ms_per_step: float) -> Position | None:
    """Estimate the position after a time. The last step is never done: only the endpoint knows when it is."""
    done: list[str] = []
    left = elapsed_ms / max(ms_per_step, 1)
    for index, sampler in enumerate(plan):
        is_last = index == len(plan) - 1
        if left < sampler.steps or is_last:
            step = min(int(left), sampler.steps - 1 if is_last else sampler.steps)
            return Position(sampler.node_id, max(step, 0), sampler.steps, tuple(done))
        done.append(sampler.node_id)
        left -= sampler.steps
    return None


def updated_ms_per_step(before: float | None, run_ms: float, plan: list[Sampler]) -> float | None:
    """Return the speed with one more finished job: a moving average, which one odd job changes little."""
    steps = sum(sampler.steps for sampler in plan)
    if steps == 0 or run_ms <= 0:
        return before
    observed = run_ms / steps
    return observed if not before else before * 0.6 + observed * 0.4
