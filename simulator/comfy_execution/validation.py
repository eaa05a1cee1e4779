"""What ComfyUI finds wrong with a prompt before it queues it, said in ComfyUI's words."""

from __future__ import annotations

import inspect
import logging
import operator
import sys
import traceback
from typing import Any, NamedTuple, TypeAlias

import nodes
from comfy_execution.graph import Prompt, declared, is_output
from comfy_execution.node_calls import call_node, constant_inputs

Problem: TypeAlias = dict[str, Any]


class Verdict(NamedTuple):
    """Whether the prompt may run, why not, which outputs of it run, and what is wrong with its nodes."""

    valid: bool
    error: Problem | None
    outputs: list[str]
    node_errors: dict[str, Any]


def validate_prompt(prompt: Prompt, targets: list[str] | None) -> Verdict:
    outputs = []
    for node_id in prompt:
        problem = _unknown_class(prompt, node_id)
        if problem:
            return Verdict(False, problem, [], {})
        chosen = targets is None or node_id in targets
        if chosen and is_output(nodes.NODE_CLASS_MAPPINGS[prompt[node_id]["class_type"]]):
            outputs.append(node_id)
    if not outputs:
        return Verdict(False, _problem("prompt_no_outputs", "Prompt has no outputs", "", {}), [], {})
    return _PromptCheck(prompt).verdict(outputs)


def full_type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _problem(kind: str, message: str, details: str, extra: dict[str, Any]) -> Problem:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _unknown_class(prompt: Prompt, node_id: str) -> Problem | None:
    where = f"Node ID '#{node_id}'"
    if "class_type" not in prompt[node_id]:
        message = "Cannot execute because a node is missing the class_type property."
        return _problem("invalid_prompt", message, where, {})
    class_type = prompt[node_id]["class_type"]
    if class_type not in nodes.NODE_CLASS_MAPPINGS:
        return _problem("invalid_prompt", f"Cannot execute because node {class_type} does not exist.", where, {})
    return None


def _types_meet(received: Any, wanted: Any) -> bool:
    # Not `==`: packs make an "any" type by overriding `!=`.
    if not operator.ne(received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    return not {one.strip() for one in received.split(",")}.isdisjoint(one.strip() for one in wanted.split(","))


class _PromptCheck:
    """One prompt's nodes, each looked at once however many outputs stand on it."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.found: dict[str, list[Problem] | None] = {}  # None: sound; an empty list: something above it is not

    def verdict(self, outputs: list[str]) -> Verdict:
        good = []
        node_errors: dict[str, Any] = {}
        details = []
        for output in outputs:
            problems = self._check_output(output)
            if problems is None:
                good.append(output)
                continue
            details += [f"{one['message']}: {one['details']}" for one in problems]
            self._blame(output, problems, node_errors)
        if good:
            return Verdict(True, None, good, node_errors)
        message = "Prompt outputs failed validation"
        return Verdict(
            False, _problem("prompt_outputs_failed_validation", message, "\n".join(details), {}), [], node_errors
        )

    def _check_output(self, output: str) -> list[Problem] | None:
        try:
            return self.check(output)
        except Exception as error:
            extra = {"exception_type": full_type_name(type(error)), "traceback": _frames()}
            problems = [_problem("exception_during_validation", "Exception when validating node", str(error), extra)]
            self.found[output] = problems
            return problems

    def _blame(self, output: str, problems: list[Problem], node_errors: dict[str, Any]) -> None:
        logging.error("Failed to validate prompt for output %s:", output)
        _log("* (prompt):", problems)
        for node_id, theirs in self.found.items():
            if not theirs:
                continue
            if node_id not in node_errors:
                class_type = self.prompt[node_id]["class_type"]
                node_errors[node_id] = {"errors": theirs, "dependent_outputs": [], "class_type": class_type}
                _log(f"* {class_type} {node_id}:", theirs)
            node_errors[node_id]["dependent_outputs"].append(output)
        logging.error("Output will be ignored")

    def check(self, node_id: str) -> list[Problem] | None:
        if node_id not in self.found:
            self.found[node_id] = _NodeCheck(self, node_id).problems()
        return self.found[node_id]


def _log(title: str, problems: list[Problem]) -> None:
    if problems:
        logging.error(title)
    for one in problems:
        logging.error("  - %s: %s", one["message"], one["details"])


def _frames() -> list[str]:
    return traceback.format_tb(sys.exc_info()[2])


class _NodeCheck:
    """One node's inputs, and by way of its links the nodes above it."""

    def __init__(self, whole: _PromptCheck, node_id: str) -> None:
        self.whole = whole
        self.node_id = node_id
        self.inputs: dict[str, Any] = whole.prompt[node_id]["inputs"]
        self.node_type = nodes.NODE_CLASS_MAPPINGS[whole.prompt[node_id]["class_type"]]
        self.declaration = self.node_type.INPUT_TYPES()
        self.errors: list[Problem] = []
        self.sound_above = True
        self.received: dict[str, Any] = {}
        own = getattr(self.node_type, "VALIDATE_INPUTS", None)
        spec = inspect.getfullargspec(own) if own else None
        self.own_names: list[str] = spec.args if spec else []
        self.own_takes_all = spec is not None and spec.varkw is not None

    def problems(self) -> list[Problem] | None:
        for category in ("required", "optional"):
            for name in self.declaration.get(category, {}):
                self._check_input(name)
        if self.own_names or self.own_takes_all:
            self._ask_the_node()
        return None if not self.errors and self.sound_above else self.errors

    def _check_input(self, name: str) -> None:
        kind, category, options = declared(self.declaration, name)
        if name not in self.inputs:
            if category == "required":
                self._report("required_input_missing", "Required input is missing", name, {"input_name": name})
        elif isinstance(self.inputs[name], list):
            self._check_link(name, kind, (kind, options))
        else:
            self._check_value(name, kind, options)

    def _report(self, kind: str, message: str, details: str, extra: dict[str, Any]) -> None:
        self.errors.append(_problem(kind, message, details, extra))

    def _check_link(self, name: str, kind: Any, config: tuple[Any, Any]) -> None:
        link = self.inputs[name]
        about = {"input_name": name, "input_config": config}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            self._report("bad_linked_input", message, name, {**about, "received_value": link})
            return
        source = self.whole.prompt[link[0]]
        received = nodes.NODE_CLASS_MAPPINGS[source["class_type"]].RETURN_TYPES[link[1]]
        self.received[name] = received
        if "input_types" not in self.own_names and not _types_meet(received, kind):
            details = f"{name}, received_type({received}) mismatch input_type({kind})"
            message = "Return type mismatch between linked nodes"
            self._report(
                "return_type_mismatch", message, details, {**about, "received_type": received, "linked_node": link}
            )
            return
        self._check_above(link, about)

    def _check_above(self, link: list[Any], about: dict[str, Any]) -> None:
        try:
            if self.whole.check(link[0]) is not None:
                self.sound_above = False
        except Exception as error:
            self.sound_above = False
            extra = {
                **about,
                "exception_message": str(error),
                "exception_type": full_type_name(type(error)),
                "traceback": _frames(),
                "linked_node": link,
            }
            message = "Exception when validating inner node"
            self.whole.found[link[0]] = [_problem("exception_during_inner_validation", message, str(error), extra)]

    def _check_value(self, name: str, kind: Any, options: dict[str, Any]) -> None:
        value = self.inputs[name]
        if isinstance(value, dict) and "__value__" in value:
            value = self.inputs[name] = value["__value__"]
        about = {"input_name": name, "input_config": (kind, options), "received_value": value}
        convert = (
            {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}.get(kind) if isinstance(kind, str) else None
        )
        try:
            if convert:
                value = self.inputs[name] = about["received_value"] = convert(value)
        except Exception as error:
            message = f"Failed to convert an input value to a {kind} value"
            extra = {**about, "exception_message": str(error)}
            self._report("invalid_input_type", message, f"{name}, {value}, {error}", extra)
            return
        if name not in self.own_names and not self.own_takes_all:
            self._check_limits(name, value, kind, options, about)

    def _check_limits(self, name: str, value: Any, kind: Any, options: dict[str, Any], about: dict[str, Any]) -> None:
        if "min" in options and value < options["min"]:
            self._report("value_smaller_than_min", f"Value {value} smaller than min of {options['min']}", name, about)
        elif "max" in options and value > options["max"]:
            self._report("value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", name, about)
        elif isinstance(kind, list) and value not in kind:
            shown = f"(list of length {len(kind)})" if len(kind) > 20 else str(kind)
            extra = {**about, "input_config": None} if len(kind) > 20 else about
            self._report("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {shown}", extra)

    def _ask_the_node(self) -> None:
        known = constant_inputs(self.node_type, self.node_id, self.inputs)
        asked = {name: value for name, value in known.items() if name in self.own_names or self.own_takes_all}
        if "input_types" in self.own_names:
            asked["input_types"] = [self.received]
        answers = call_node(self.node_type, "VALIDATE_INPUTS", asked)
        for name in asked:
            for answer in answers:
                if answer is not True:
                    details = name if answer is False else f"{name} - {answer}"
                    message = "Custom validation failed for node"
                    self._report("custom_validation_failed", message, details, {"input_name": name})
