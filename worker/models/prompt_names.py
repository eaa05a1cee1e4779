"""Finds the model names in an API prompt and replaces them by the names of this worker's files. Pure.

A prompt has the names of the machine it was made on: Windows paths, subfolders, a browser's `` (1)``.
:func:`match_models` gives each name the spelling that this worker's ComfyUI lists. It changes a copy of the API prompt;
the workflow in ``extra_pnginfo`` stays as its author saved it.
"""

from __future__ import annotations

import copy
import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from worker.errors import Code, WorkerError
from worker.sites.types import MODEL_EXTENSIONS

Prompt = Mapping[str, Any]

NO_MODEL = frozenset({"", "none", "baked vae", "baked_vae", "default", "auto", "automatic", "disabled", "undefined"})
"""Values that loaders of many packs use for "no file"; ComfyUI itself accepts or rejects them."""

_BROWSER_COPY = re.compile(r" \(\d+\)(?=\.[^./]+$)")
_EMBEDDING = re.compile(r"embedding:([^\s,:()\[\]{}]+)", re.IGNORECASE)
_LORA_TAG = re.compile(r"<lora:([^:>]+)", re.IGNORECASE)

_LINE_TYPES = {
    "ckpt_name": "ckpt",
    "lora_name": "lora",
    "vae_name": "vae",
    "unet_name": "unet",
    "control_net_name": "cnet",
    "clip_name": "clip",
    "clip_name1": "clip",
    "clip_name2": "clip",
    "clip_name3": "clip",
    "clip_name4": "clip",
}
"""The input names of ComfyUI's own loaders -> the type word that a repo_list line for them starts with."""
_CLASS_LINE_TYPES = {"CLIPVisionLoader": "clipvision", "UpscaleModelLoader": "upscale"}


@dataclass(frozen=True)
class ModelNames:
    """The names of the models on disk, for :func:`match_models`.

    Args:
        aliases: folder -> file name as ComfyUI lists it -> other names for the same file.
        renamed: folder -> canonical name of a file in this job's repo_list -> the name it has on disk, because another
            file has the canonical one. In this job the canonical name means the listed file, not the other.
    """

    aliases: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    renamed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Matched(NamedTuple):
    """A prompt with the model names of this worker's ComfyUI, and a warning for each name that was changed."""

    prompt: dict[str, Any]
    warnings: list[str]


class _Input(NamedTuple):
    node_id: str
    class_type: str
    name: str
    value: str
    options: list[str]

    def __str__(self) -> str:
        return f"node {self.node_id} ({self.class_type}) {self.name}"


@dataclass(frozen=True)
class Mentions:
    """The model names that a prompt mentions anywhere, read as loosely as possible: these files must not be pruned."""

    names: frozenset[str] = frozenset()
    """Base names in their :func:`loose_spelling`."""
    texts: tuple[str, ...] = ()
    """Texts that contain ``embedding:``, case-folded, with forward slashes."""

    def may_mean(self, name: str, aliases: Iterable[str] = ()) -> bool:
        """Return True if the prompt may mean the file ``name`` (a path inside its folder) by this name or an alias."""
        if any(loose_spelling(each) in self.names for each in (name, *aliases)):
            return True
        if not self.texts:
            return False
        stems = {_fold(name).rpartition(".")[0], _fold(_basename(name)).rpartition(".")[0]}
        return any(f"embedding:{stem}" in text for stem in stems for text in self.texts)


def loader_classes(prompt: Prompt) -> list[str]:
    """Return the classes of the nodes that name a model file, sorted: only their lists are needed for matching."""
    classes = set()
    for node in prompt.values():
        inputs = node.get("inputs") if isinstance(node, Mapping) else None
        if isinstance(inputs, Mapping) and any(isinstance(v, str) and is_model_name(v) for v in inputs.values()):
            classes.add(str(node.get("class_type")))
    return sorted(classes)


def find_mentions(prompt: Prompt) -> Mentions:
    """Collect the models that the prompt may mean: strings that end like a model, and embeddings and LoRAs in texts."""
    names: set[str] = set()
    texts: list[str] = []
    for text in _strings(prompt):
        for line in text.splitlines():
            if is_model_name(line.strip()):
                # Also without a second `` (1)``: match_models matches a copy of a copy to the copy.
                names.update((loose_spelling(line.strip()), loose_spelling(loose_spelling(line.strip()))))
        for tag in (*_EMBEDDING.findall(text), *_LORA_TAG.findall(text)):
            names.add(loose_spelling(tag if is_model_name(tag) else f"{tag}.safetensors"))
        if "embedding:" in text.lower():
            texts.append(_fold(text))
    return Mentions(frozenset(names), tuple(texts))


def is_model_name(value: str) -> bool:
    """Return True if the value ends like a model file."""
    return value.lower().endswith(MODEL_EXTENSIONS)


@lru_cache(maxsize=8192)  # each job asks for all files on the disk
def loose_spelling(name: str) -> str:
    """Return the base name without a browser's `` (1)`` and without case: equal for names that may mean one file."""
    return _fold(_without_copy_number(_basename(name)))


def match_models(prompt: Prompt, object_info: Mapping[str, Any], names: ModelNames | None = None) -> Matched:
    """Give each model input the spelling that ComfyUI lists.

    Args:
        prompt: API format; not changed.
        object_info: the answers of ``GET /object_info/<class>``, by class. Nodes of other classes are not changed.
        names: aliases, and renamed files of this job.

    Raises:
        WorkerError: MODEL_MISSING, with every model input that has no match in ``details["missing"]``.
    """
    names = names or ModelNames()
    result = Matched(copy.deepcopy(dict(prompt)), [])
    missing = []
    for found in _model_inputs(prompt, object_info):
        match = _match(found, names)
        if match is None:
            missing.append(found)
        elif match != found.value:
            result.prompt[found.node_id]["inputs"][found.name] = match
            result.warnings.append(f"{found}: {found.value!r} was read as {match!r}")
    if missing:
        raise _missing_error(missing)
    return result


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)


def _model_inputs(prompt: Prompt, object_info: Mapping[str, Any]) -> Iterator[_Input]:
    for node_id, node in prompt.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("inputs"), Mapping):
            continue
        class_type = str(node.get("class_type"))
        for name, value in node["inputs"].items():
            if not isinstance(value, str):
                continue  # a link, a number, or a custom node's own structure
            options = _options(object_info.get(class_type), name)
            if options is not None and _is_model_list(value, options):
                yield _Input(node_id, class_type, name, value, options)


def _options(info: Any, name: str) -> list[str] | None:
    """Return the values of a combo input, in ComfyUI's older form (a list) or its newer one; None for other inputs."""
    inputs = info.get("input") if isinstance(info, Mapping) else None
    for group in ("required", "optional"):
        fields = inputs.get(group) if isinstance(inputs, Mapping) else None
        spec = fields.get(name) if isinstance(fields, Mapping) else None
        if not isinstance(spec, (list, tuple)) or not spec:
            continue
        values = spec[0]
        if values == "COMBO" and len(spec) > 1 and isinstance(spec[1], Mapping):
            values = spec[1].get("options")
        return [each for each in values if isinstance(each, str)] if isinstance(values, (list, tuple)) else None
    return None


def _is_model_list(value: str, options: Sequence[str]) -> bool:
    if value.strip().lower() in NO_MODEL:
        return False
    return is_model_name(value) or any(is_model_name(option) for option in options)


def _match(found: _Input, names: ModelNames) -> str | None:
    """Return the option that the first step with exactly one result finds; None if no step has one."""
    value, options = found.value, found.options
    for step in (_renamed(names), *_STEPS, _alias(names)):
        candidates = set(step(value, options))
        if len(candidates) == 1:
            return candidates.pop()
    return None


_Step = Callable[[str, Sequence[str]], Iterable[str]]


def _same_spelling(spell_value: Callable[[str], str], spell_option: Callable[[str], str] | None = None) -> _Step:
    """Make a step that compares value and options in one spelling, or each in its own."""

    def step(value: str, options: Sequence[str]) -> Iterable[str]:
        wanted = spell_value(value)
        return [option for option in options if (spell_option or spell_value)(option) == wanted]

    return step


def _renamed(names: ModelNames) -> _Step:
    def step(value: str, options: Sequence[str]) -> Iterable[str]:
        wanted = _basename(value)  # if two folders have renamed files of this name, the options show which is meant
        return [folder[wanted] for folder in names.renamed.values() if folder.get(wanted) in options]

    return step


def _alias(names: ModelNames) -> _Step:
    def step(value: str, options: Sequence[str]) -> Iterable[str]:
        wanted, listed = loose_spelling(value), set(options)
        return [
            actual
            for folder in names.aliases.values()
            for actual, others in folder.items()
            if actual in listed and any(loose_spelling(other) == wanted for other in others)
        ]

    return step


def _slashes(name: str) -> str:
    return name.replace("\\", "/")


def _basename(name: str) -> str:
    return _slashes(name).rpartition("/")[2]


def _without_copy_number(name: str) -> str:
    return _BROWSER_COPY.sub("", name)


def _fold(name: str) -> str:
    """Fold the case and compose accents, which macOS writes decomposed."""
    return unicodedata.normalize("NFC", _slashes(name)).casefold()


_STEPS: tuple[_Step, ...] = (
    _same_spelling(str),
    _same_spelling(_slashes),
    _same_spelling(_basename),
    _same_spelling(lambda name: _without_copy_number(_basename(name)), _basename),
    _same_spelling(_fold),
    _same_spelling(lambda name: _fold(_basename(name))),
    _same_spelling(loose_spelling, lambda name: _fold(_basename(name))),
)


def _missing_error(missing: Sequence[_Input]) -> WorkerError:
    facts = [
        {
            "node_id": each.node_id,
            "class_type": each.class_type,
            "input": each.name,
            "value": each.value,
            "candidates": nearest(each.value, each.options),
            "line": _repo_line(each),
        }
        for each in missing
    ]
    message = "; ".join(f"{each}: {each.value!r} is not here{_nearest_text(each)}" for each in missing[:5])
    more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
    lines = " and ".join(dict.fromkeys(f'"{_repo_line(each)}"' for each in missing[:5]))
    return WorkerError(Code.MODEL_MISSING, message + more, f"Add {lines} to repo_list.", details={"missing": facts})


def _nearest_text(found: _Input) -> str:
    if not any(is_model_name(option) for option in found.options):
        return " (this worker has no model for this input)"
    near = nearest(found.value, found.options)
    return f" (nearest: {', '.join(near)})" if near else f" (none of the {len(found.options)} names here is like it)"


def nearest(value: str, options: Sequence[str], count: int = 3) -> list[str]:
    """Return the options whose names are most like ``value``, best first."""
    spelled: dict[str, list[str]] = {}
    for option in options:
        spelled.setdefault(_stem(option), []).append(option)
    close = difflib.get_close_matches(_stem(value), spelled, count, 0.5)
    return [option for name in close for option in spelled[name]][:count]


def _stem(name: str) -> str:
    """Return the name without its ending, which is the same for most names and would make all of them similar."""
    return loose_spelling(name).rpartition(".")[0] or loose_spelling(name)


def _repo_line(found: _Input) -> str:
    """Return the repo_list line that would add the model, with a placeholder for its unknown link."""
    word = _CLASS_LINE_TYPES.get(found.class_type) or _LINE_TYPES.get(found.name)
    link = "https://civitai.com/api/download/models/<version id>"
    return f"{word} {link}" if word else link
