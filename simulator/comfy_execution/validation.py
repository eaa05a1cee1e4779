"""Validation of a prompt before it is queued, with ComfyUI's errors, word for word."""

from __future__ import annotations

import inspect
import logging
import operator
import sys
import traceback
from typing import Any, NamedTuple, TypeAlias

import nodes
from comfy_execution.graph import Prompt, get_input_info, is_output
from comfy_execution.node_calls import constant_inputs, map_node_over_list

Problem: TypeAlias = dict[str, Any]


class ValidationResult(NamedTuple):
    """Validity of the prompt, its error, the outputs that will run, and the errors of its nodes."""

    valid: bool
    error: Problem | None
    outputs: list[str]
    node_errors: dict[str, Any]


def validate_prompt(prompt: Prompt, targets: list[str] | None) -> ValidationResult:
    outputs = []
    for node_id in prompt:
        unknown = _unknown_class(prompt, node_id)
        if unknown:
            return ValidationResult(False, unknown, [], {})
        chosen = targets is None or node_id in targets
        if chosen and is_output(nodes.NODE_CLASS_MAPPINGS[prompt[node_id]["class_type"]]):
            outputs.append(node_id)
    if not outputs:
        return ValidationResult(False, problem("prompt_no_outputs", "Prompt has no outputs", "", {}), [], {})
    return _PromptValidator(prompt).validate(outputs)


def full_type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def problem(kind: str, message: str, details: str, extra: dict[str, Any]) -> Problem:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _unknown_class(prompt: Prompt, node_id: str) -> Problem | None:
    where = f"Node ID '#{node_id}'"
    if "class_type" not in prompt[node_id]:
        message = "Cannot execute because a node is missing the class_type property."
        return problem("invalid_prompt", message, where, {})
    class_type = prompt[node_id]["class_type"]
    if class_type not in nodes.NODE_CLASS_MAPPINGS:
        return problem("invalid_prompt", f"Cannot execute because node {class_type} does not exist.", where, {})
    return None


def _validate_node_input(received_type: Any, input_type: Any) -> bool:
    # Not `==`: packs make an "any" type by overriding `!=`.
    if not operator.ne(received_type, input_type):
        return True
    if not isinstance(received_type, str) or not isinstance(input_type, str):
        return False
    received_types = {one.strip() for one in received_type.split(",")}
    return not received_types.isdisjoint(one.strip() for one in input_type.split(","))


class _PromptValidator:
    """Validates the nodes of one prompt, each once, however many outputs depend on it."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.validated: dict[str, list[Problem] | None] = {}  # None: valid; an empty list: an ancestor is not

    def validate(self, outputs: list[str]) -> ValidationResult:
        good = []
        node_errors: dict[str, Any] = {}
        details = []
        for output in outputs:
            problems = self._validate_output(output)
            if problems is None:
                good.append(output)
                continue
            details += [f"{one['message']}: {one['details']}" for one in problems]
            self._collect_node_errors(output, problems, node_errors)
        if good:
            return ValidationResult(True, None, good, node_errors)
        message = "Prompt outputs failed validation"
        return ValidationResult(
            False, problem("prompt_outputs_failed_validation", message, "\n".join(details), {}), [], node_errors
        )

    def _validate_output(self, output: str) -> list[Problem] | None:
        try:
            return self.validate_inputs(output)
        except Exception as error:
            extra = {"exception_type": full_type_name(type(error)), "traceback": _frames()}
            problems = [problem("exception_during_validation", "Exception when validating node", str(error), extra)]
            self.validated[output] = problems
            return problems

    def _collect_node_errors(self, output: str, problems: list[Problem], node_errors: dict[str, Any]) -> None:
        logging.error("Failed to validate prompt for output %s:", output)
        _log("* (prompt):", problems)
        for node_id, errors in self.validated.items():
            if not errors:
                continue
            if node_id not in node_errors:
                class_type = self.prompt[node_id]["class_type"]
                node_errors[node_id] = {"errors": errors, "dependent_outputs": [], "class_type": class_type}
                _log(f"* {class_type} {node_id}:", errors)
            node_errors[node_id]["dependent_outputs"].append(output)
        logging.error("Output will be ignored")

    def validate_inputs(self, node_id: str) -> list[Problem] | None:
        if node_id not in self.validated:
            self.validated[node_id] = _NodeValidator(self, node_id).problems()
        return self.validated[node_id]


def _log(title: str, problems: list[Problem]) -> None:
    if problems:
        logging.error(title)
    for one in problems:
        logging.error("  - %s: %s", one["message"], one["details"])


def _frames() -> list[str]:
    return traceback.format_tb(sys.exc_info()[2])


class _NodeValidator:
    """Validates the inputs of one node and, through its links, its ancestors."""

    def __init__(self, whole: _PromptValidator, node_id: str) -> None:
        self.whole = whole
        self.node_id = node_id
        self.inputs: dict[str, Any] = whole.prompt[node_id]["inputs"]
        self.node_type = nodes.NODE_CLASS_MAPPINGS[whole.prompt[node_id]["class_type"]]
        self.declaration = self.node_type.INPUT_TYPES()
        self.errors: list[Problem] = []
        self.ancestors_valid = True
        self.received: dict[str, Any] = {}
        custom = getattr(self.node_type, "VALIDATE_INPUTS", None)
        spec = inspect.getfullargspec(custom) if custom else None
        self.custom_names: list[str] = spec.args if spec else []
        self.custom_takes_all = spec is not None and spec.varkw is not None

    def problems(self) -> list[Problem] | None:
        for category in ("required", "optional"):
            for name in self.declaration.get(category, {}):
                self._check_input(name)
        if self.custom_names or self.custom_takes_all:
            self._run_custom_validation()
        return None if not self.errors and self.ancestors_valid else self.errors

    def _check_input(self, name: str) -> None:
        kind, category, options = get_input_info(self.declaration, name)
        if name not in self.inputs:
            if category == "required":
                self._report("required_input_missing", "Required input is missing", name, {"input_name": name})
        elif isinstance(self.inputs[name], list):
            self._check_link(name, kind, (kind, options))
        else:
            self._check_value(name, kind, options)

    def _report(self, kind: str, message: str, details: str, extra: dict[str, Any]) -> None:
        self.errors.append(problem(kind, message, details, extra))

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
        if "input_types" not in self.custom_names and not _validate_node_input(received, kind):
            details = f"{name}, received_type({received}) mismatch input_type({kind})"
            message = "Return type mismatch between linked nodes"
            self._report(
                "return_type_mismatch", message, details, {**about, "received_type": received, "linked_node": link}
            )
            return
        self._validate_ancestor(link, about)

    def _validate_ancestor(self, link: list[Any], about: dict[str, Any]) -> None:
        try:
            if self.whole.validate_inputs(link[0]) is not None:
                self.ancestors_valid = False
        except Exception as error:
            self.ancestors_valid = False
            extra = {
                **about,
                "exception_message": str(error),
                "exception_type": full_type_name(type(error)),
                "traceback": _frames(),
                "linked_node": link,
            }
            message = "Exception when validating inner node"
            self.whole.validated[link[0]] = [problem("exception_during_inner_validation", message, str(error), extra)]

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
        if name not in self.custom_names and not self.custom_takes_all:
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

    def _run_custom_validation(self) -> None:
        known = constant_inputs(self.node_type, self.node_id, self.inputs)
        passed = {name: value for name, value in known.items() if name in self.custom_names or self.custom_takes_all}
        if "input_types" in self.custom_names:
            passed["input_types"] = [self.received]
        answers = map_node_over_list(self.node_type, "VALIDATE_INPUTS", passed)
        for name in passed:
            for answer in answers:
                if answer is not True:
                    details = name if answer is False else f"{name} - {answer}"
                    message = "Custom validation failed for node"
                    self._report("custom_validation_failed", message, details, {"input_name": name})
