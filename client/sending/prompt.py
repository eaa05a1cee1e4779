"""What is sent: the UI's prompt without the nodes that mean something only here. Pure."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, Any]

REPO_LIST_TITLE = "repo_list"
LOCAL_CLASSES = ("RemoteResults",)  # they read this machine's folders, which no worker has
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
_TEXT_INPUTS = ("text", "string", "value", "prompt", "multiline_text")


class PromptProblem(Exception):
    """The prompt cannot be sent; names the node where there is one, so that it turns red."""

    def __init__(self, message: str, node_id: str | None = None, class_type: str = "", input_name: str = "") -> None:
        super().__init__(message)
        self.message, self.node_id, self.class_type, self.input_name = message, node_id, class_type, input_name

    def body(self) -> dict[str, Any]:
        """The answer in the shape of ComfyUI's own ``/prompt``."""
        kind = "remote_serverless"
        error = {"type": kind, "message": self.message, "details": "", "extra_info": {}}
        if self.node_id is None:
            return {"error": error, "node_errors": {}}
        one = {
            "type": kind,
            "message": self.message,
            "details": self.input_name,
            "extra_info": {"input_name": self.input_name},
        }
        node = {"class_type": self.class_type, "dependent_outputs": [], "errors": [one]}
        return {"error": error, "node_errors": {self.node_id: node}}


def is_link(value: Any) -> bool:
    """Whether an input comes from another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def check_prompt(prompt: Any) -> Prompt:
    """Make sure that it is an API prompt."""
    if not isinstance(prompt, dict) or not prompt:
        raise PromptProblem("There is nothing to run: the prompt has no nodes.")
    for node_id, node in prompt.items():
        if (
            not isinstance(node, dict)
            or not isinstance(node.get("class_type"), str)
            or not isinstance(node.get("inputs"), dict)
        ):
            raise PromptProblem(f"Node {node_id} of the prompt is not a node.")
    return prompt


def take_repo_list(prompt: Prompt, workflow: Any) -> tuple[Prompt, str]:
    """The prompt without the nodes titled ``repo_list``, and their text.

    Who reads from such a node gets its text instead of the link, so that nothing dangles.
    """
    texts = {node_id: _text_of(node_id, prompt) for node_id in sorted(_titled(prompt, workflow))}
    if not texts:
        return prompt, ""
    left = {node_id: node for node_id, node in prompt.items() if node_id not in texts}
    for node_id, node in left.items():
        replaced = {
            name: texts[value[0]] for name, value in node["inputs"].items() if is_link(value) and value[0] in texts
        }
        if replaced:
            left[node_id] = {**node, "inputs": {**node["inputs"], **replaced}}
    return left, "\n".join(text for text in texts.values() if text.strip())


def _titled(prompt: Prompt, workflow: Any) -> set[str]:
    found = {node_id for node_id, node in prompt.items() if _title(node) == REPO_LIST_TITLE}
    nodes = workflow.get("nodes") if isinstance(workflow, dict) else None
    for node in nodes if isinstance(nodes, list) else ():
        if isinstance(node, dict) and node.get("title") == REPO_LIST_TITLE and str(node.get("id")) in prompt:
            found.add(str(node["id"]))
    return found


def _title(node: dict[str, Any]) -> Any:
    meta = node.get("_meta")
    return meta.get("title") if isinstance(meta, dict) else None


def _text_of(node_id: str, prompt: Prompt) -> str:
    node = prompt[node_id]
    inputs = node["inputs"]
    for name in [*_TEXT_INPUTS, *inputs]:
        if isinstance(inputs.get(name), str):
            return str(inputs[name])
    if any(is_link(value) for value in inputs.values()):
        message = "The text of the node titled repo_list comes from another node. Write the list into the node itself."
        raise PromptProblem(message, node_id, node["class_type"], next(iter(inputs)))
    return ""


def drop_local_nodes(prompt: Prompt) -> Prompt:
    """The prompt without the nodes that show this machine's results, and without what hangs on them."""
    gone = {node_id for node_id, node in prompt.items() if node["class_type"] in LOCAL_CLASSES}
    grown = bool(gone)
    while grown:
        more = {
            node_id
            for node_id, node in prompt.items()
            if node_id not in gone and any(is_link(value) and value[0] in gone for value in node["inputs"].values())
        }
        gone |= more
        grown = bool(more)
    left = {node_id: node for node_id, node in prompt.items() if node_id not in gone}
    if not left:
        raise PromptProblem("There is nothing to run remotely: these nodes only show what is on this machine.")
    return left


def targets_of(value: Any, prompt: Prompt) -> list[str] | None:
    """The outputs that alone shall run; None for all. Never silently all when some were asked for: that costs money."""
    if not isinstance(value, list):
        return None
    left = [str(node_id) for node_id in value if str(node_id) in prompt]
    if value and not left:
        raise PromptProblem("None of the chosen outputs can run remotely.")
    return left or None


def without_secrets(extra_data: Any) -> dict[str, Any]:
    """The prompt's extra data without the logins that the UI adds for paid API nodes."""
    given = extra_data if isinstance(extra_data, dict) else {}
    return {name: value for name, value in given.items() if name not in SECRETS}


def workflow_of(extra_data: dict[str, Any]) -> dict[str, Any]:
    """The UI's workflow that travels with the prompt; empty when there is none."""
    pnginfo = extra_data.get("extra_pnginfo")
    workflow = pnginfo.get("workflow") if isinstance(pnginfo, dict) else None
    return workflow if isinstance(workflow, dict) else {}
