"""Reading and rewriting an API prompt: which models it names, and what this worker calls them. Pure.

A prompt is written against the files of the machine it was made on: Windows paths, subfolders, a browser's `` (1)``.
:func:`match_models` gives each name the spelling that this worker's ComfyUI lists. Only the API prompt is rewritten, in
a copy; the workflow that travels in ``extra_pnginfo`` stays as its author saved it.
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
"""What loaders of many packs call "no file"; ComfyUI itself judges these."""

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
    """What the model side knows about names, for :func:`match_models`.

    Args:
        aliases: folder -> file name as ComfyUI lists it -> other names for the same file.
        renamed: folder -> the name that a file of this job's repo_list should have -> the name it has, because other
            bytes hold the first. Such a name means the listed file, though an unlisted one matches it exactly.
    """

    aliases: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    renamed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Matched(NamedTuple):
    """A prompt whose model names this worker's ComfyUI knows, and what was changed for that."""

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
    """The model names that a prompt mentions anywhere, in the loosest reading: what must not be deleted under it."""

    names: frozenset[str] = frozenset()
    """Base names, :func:`loose` spelling."""
    texts: tuple[str, ...] = ()
    """Texts with ``embedding:`` in them, case-folded, forward slashes."""

    def cover(self, name: str, aliases: Iterable[str] = ()) -> bool:
        """Whether the prompt may mean the file ``name`` (a path inside its folder), or one of its other names."""
        if any(loose(each) in self.names for each in (name, *aliases)):
            return True
        if not self.texts:
            return False
        stems = {_fold(name).rpartition(".")[0], _fold(_base(name)).rpartition(".")[0]}
        return any(f"embedding:{stem}" in text for stem in stems for text in self.texts)


def loader_classes(prompt: Prompt) -> list[str]:
    """The classes of the nodes that name a model file, each once, sorted: the only ones whose lists must be known."""
    classes = set()
    for node in prompt.values():
        inputs = node.get("inputs") if isinstance(node, Mapping) else None
        if isinstance(inputs, Mapping) and any(isinstance(v, str) and is_model_name(v) for v in inputs.values()):
            classes.add(str(node.get("class_type")))
    return sorted(classes)


def model_names(prompt: Prompt) -> Mentions:
    """Every model that the prompt may mean: any string that ends like a model, and embeddings and LoRAs in texts."""
    names: set[str] = set()
    texts: list[str] = []
    for text in _strings(prompt):
        for line in text.splitlines():
            if is_model_name(line.strip()):
                # Also without a second `` (1)``: a copy of a copy is matched to the copy.
                names.update((loose(line.strip()), loose(loose(line.strip()))))
        for tag in (*_EMBEDDING.findall(text), *_LORA_TAG.findall(text)):
            names.add(loose(tag if is_model_name(tag) else f"{tag}.safetensors"))
        if "embedding:" in text.lower():
            texts.append(_fold(text))
    return Mentions(frozenset(names), tuple(texts))


def is_model_name(value: str) -> bool:
    """Whether a value ends like a model file."""
    return value.lower().endswith(MODEL_EXTENSIONS)


@lru_cache(maxsize=8192)  # every job asks for every file of the disk
def loose(name: str) -> str:
    """A name in the loosest spelling that still counts as the same: base name, no browser's `` (1)``, no case."""
    return _fold(_plain(_base(name)))


def match_models(prompt: Prompt, object_info: Mapping[str, Any], names: ModelNames | None = None) -> Matched:
    """Give each model input the spelling that ComfyUI lists.

    Args:
        prompt: API format; not changed.
        object_info: what ``GET /object_info/<class>`` says, by class. A class that is missing here is left alone.
        names: aliases and renamed files of this job.

    Raises:
        WorkerError: MODEL_MISSING, with every model input that nothing matches in ``details["missing"]``.
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
    """The values of a combo input, in ComfyUI's older form (a list) or its newer one; None when it is no combo."""
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
    """The one option that the value means, by the first step that finds exactly one."""
    value, options = found.value, found.options
    for step in (_listed_elsewhere(names), *_STEPS, _alias(names)):
        candidates = set(step(value, options))
        if len(candidates) == 1:
            return candidates.pop()
    return None


_Step = Callable[[str, Sequence[str]], Iterable[str]]


def _spelled(spell_value: Callable[[str], str], spell_option: Callable[[str], str] | None = None) -> _Step:
    """A step that compares value and options in one spelling (or in two, where only a value is cut)."""

    def step(value: str, options: Sequence[str]) -> Iterable[str]:
        wanted = spell_value(value)
        return [option for option in options if (spell_option or spell_value)(option) == wanted]

    return step


def _listed_elsewhere(names: ModelNames) -> _Step:
    def step(value: str, options: Sequence[str]) -> Iterable[str]:
        wanted = _base(value)  # two folders may each have renamed a file of one name: the options tell them apart
        return [folder[wanted] for folder in names.renamed.values() if folder.get(wanted) in options]

    return step


def _alias(names: ModelNames) -> _Step:
    def step(value: str, options: Sequence[str]) -> Iterable[str]:
        wanted, listed = loose(value), set(options)
        return [
            actual
            for folder in names.aliases.values()
            for actual, others in folder.items()
            if actual in listed and any(loose(other) == wanted for other in others)
        ]

    return step


def _slashes(name: str) -> str:
    return name.replace("\\", "/")


def _base(name: str) -> str:
    return _slashes(name).rpartition("/")[2]


def _plain(name: str) -> str:
    return _BROWSER_COPY.sub("", name)


def _fold(name: str) -> str:
    """No case, and accents composed: macOS writes them apart."""
    return unicodedata.normalize("NFC", _slashes(name)).casefold()


_STEPS: tuple[_Step, ...] = (
    _spelled(str),
    _spelled(_slashes),
    _spelled(_base),
    _spelled(lambda name: _plain(_base(name)), _base),
    _spelled(_fold),
    _spelled(lambda name: _fold(_base(name))),
    _spelled(loose, lambda name: _fold(_base(name))),
)


def _missing_error(missing: Sequence[_Input]) -> WorkerError:
    facts = [
        {
            "node_id": each.node_id,
            "class_type": each.class_type,
            "input": each.name,
            "value": each.value,
            "candidates": nearest(each.value, each.options),
            "line": _line(each),
        }
        for each in missing
    ]
    said = "; ".join(f"{each}: {each.value!r} is not here{_nearest_text(each)}" for each in missing[:5])
    more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
    lines = " and ".join(dict.fromkeys(f'"{_line(each)}"' for each in missing[:5]))
    return WorkerError(Code.MODEL_MISSING, said + more, f"Add {lines} to repo_list.", details={"missing": facts})


def _nearest_text(found: _Input) -> str:
    if not any(is_model_name(option) for option in found.options):
        return " (this worker has no model for this input)"
    near = nearest(found.value, found.options)
    return f" (nearest: {', '.join(near)})" if near else f" (none of {len(found.options)} is like it)"


def nearest(value: str, options: Sequence[str], count: int = 3) -> list[str]:
    """The options whose names are most like ``value``, best first."""
    spelled: dict[str, list[str]] = {}
    for option in options:
        spelled.setdefault(_stem(option), []).append(option)
    close = difflib.get_close_matches(_stem(value), spelled, count, 0.5)
    return [option for name in close for option in spelled[name]][:count]


def _stem(name: str) -> str:
    """What tells names apart; with their common ending all of them would be alike."""
    return loose(name).rpartition(".")[0] or loose(name)


def _line(found: _Input) -> str:
    """The repo_list line that would bring the model, but for its link, which nobody here knows."""
    word = _CLASS_LINE_TYPES.get(found.class_type) or _LINE_TYPES.get(found.name)
    link = "https://civitai.com/api/download/models/<version id>"
    return f"{word} {link}" if word else link
