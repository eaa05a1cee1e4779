"""The prompt that is sent: the UI's, without the nodes that work only on this machine. Pure."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, Any]

REPO_LIST_TITLE = "repo_list"
LOCAL_CLASSES = ("RemoteResults",)  # they read folders of this machine
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
_TEXT_INPUTS = ("text", "string", "value", "prompt", "multiline_text")


class PromptError(Exception):
    """The prompt cannot be sent. If it names a node, ComfyUI marks that node red."""

    def __init__(self, message: str, node_id: str | None = None, class_type: str = "", input_name: str = "") -> None:
        super().__init__(message)
        self.message, self.node_id, self.class_type, self.input_name = message, node_id, class_type, input_name

    def body(self) -> dict[str, Any]:
        """Return the error in the shape of ComfyUI's own ``/prompt``."""
        error = {"type": "remote_serverless", "message": self.message, "details": "", "extra_info": {}}
        if self.node_id is None:
            return {"error": error, "node_errors": {}}
        one = {**error, "details": self.input_name, "extra_info": {"input_name": self.input_name}}
        node = {"class_type": self.class_type, "dependent_outputs": [], "errors": [one]}
        return {"error": error, "node_errors": {self.node_id: node}}


def is_link(value: Any) -> bool:
    """Return True if the input is connected to another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def check_prompt(prompt: Any) -> Prompt:
    """Return the prompt. Raises PromptError if it has not the shape of an API prompt."""
    if not isinstance(prompt, dict) or not prompt:
        raise PromptError("There is nothing to run: the prompt has no nodes.")
    for node_id, node in prompt.items():
        fields = node if isinstance(node, dict) else {}
        if not isinstance(fields.get("class_type"), str) or not isinstance(fields.get("inputs"), dict):
            raise PromptError(f"Node {node_id} of the prompt has no class_type or no inputs.")
    return prompt


def take_repo_list(prompt: Prompt, workflow: Any) -> tuple[Prompt, str]:
    """Return the prompt without the nodes titled ``repo_list``, and their text.

    An input connected to such a node gets its text in place of the link.
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
        raise PromptError(message, node_id, node["class_type"], next(iter(inputs)))
    return ""


def drop_local_nodes(prompt: Prompt) -> Prompt:
    """Return the prompt without the nodes that load this machine's results, and without those connected to them."""
    more = {node_id for node_id, node in prompt.items() if node["class_type"] in LOCAL_CLASSES}
    gone: set[str] = set()
    while more:
        gone |= more
        more = {
            node_id
            for node_id, node in prompt.items()
            if node_id not in gone and any(is_link(value) and value[0] in gone for value in node["inputs"].values())
        }
    left = {node_id: node for node_id, node in prompt.items() if node_id not in gone}
    if not left:
        raise PromptError("There is nothing to run remotely: these nodes only load results of this machine.")
    return left


def targets_of(value: Any, prompt: Prompt) -> list[str] | None:
    """Return the chosen output nodes, None for all. Raises PromptError rather than run, and bill, all of them."""
    if not isinstance(value, list):
        return None
    left = [str(node_id) for node_id in value if str(node_id) in prompt]
    if value and not left:
        raise PromptError("None of the chosen outputs can run remotely.")
    return left or None


def without_secrets(extra_data: Any) -> dict[str, Any]:
    """Return the extra data without the logins that the UI adds for paid API nodes."""
    given = extra_data if isinstance(extra_data, dict) else {}
    return {name: value for name, value in given.items() if name not in SECRETS}


def workflow_of(extra_data: dict[str, Any]) -> dict[str, Any]:
    """Return the UI's workflow that is sent with the prompt; empty if there is none."""
    pnginfo = extra_data.get("extra_pnginfo")
    workflow = pnginfo.get("workflow") if isinstance(pnginfo, dict) else None
    return workflow if isinstance(workflow, dict) else {}
