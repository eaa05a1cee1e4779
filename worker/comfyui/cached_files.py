"""The job that each of ComfyUI's files belongs to, so that no caller gets a file with another caller's workflow.

ComfyUI answers what it has run before from its cache, with the files of the job that ran it, and those carry that job's
prompt and workflow. A PNG's texts are replaced before it is returned (``results/png_text.py``). Every other kind, and a
PNG with more in it than ComfyUI writes, is saved again unless this very prompt and workflow wrote it: rewriting is
exact for the few formats we know, and silently wrong for the rest.

To force a re-save we add an undeclared input to the saving node: it changes ComfyUI's cache key but is never passed to
the node.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from worker.results.media_types import media_type
from worker.results.outputs import TEXT, Output, OutputFile
from worker.results.png_text import replaces_everything

RERUN_INPUT = "saved_for"
MOST_FILES = 50_000  # about 20 MB; ComfyUI's own cache evicts far sooner

_File = tuple[str, str, str]


def content_key(prompt: Mapping[str, Any], extra_pnginfo: Mapping[str, Any]) -> str:
    """Return the key that all jobs share whose files carry the same texts."""
    return hashlib.sha256(json.dumps([prompt, extra_pnginfo]).encode()).hexdigest()[:16]


def with_rerun_input(prompt: Mapping[str, Any], node_ids: Collection[str], key: str) -> dict[str, Any]:
    """Return the prompt with an added input in these nodes, so that ComfyUI's cache does not have them."""
    return {
        node_id: {**node, "inputs": {**node["inputs"], RERUN_INPUT: key}} if node_id in node_ids else node
        for node_id, node in prompt.items()
    }


def nodes_from_cache(outputs: Iterable[Output], prompt: Mapping[str, Any], cached: Collection[str]) -> frozenset[str]:
    """Return the nodes whose files an earlier prompt may have written.

    ComfyUI names only the prompt's own nodes as cached, so a node that one of them expanded into always counts.
    """
    nodes = {output.node_id for output in outputs}
    return frozenset(node for node in nodes if node in cached or node not in prompt)


class CachedFiles:
    """Remembers which job and node wrote the files of one ComfyUI.

    Args:
        shared: others use that ComfyUI as well, so that an unrecorded file may be theirs.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._writers: OrderedDict[_File, tuple[str, str]] = OrderedDict()
        """Content key and node id."""
        self._expanding: set[str] = set()
        """Classes of nodes that were seen to expand into others that save."""

    def record(self, key: str, prompt: Mapping[str, Any], outputs: Iterable[Output], cached: Collection[str]) -> None:
        """Record the files that a prompt wrote.

        Args:
            key: the prompt's content key.
            prompt: as it was submitted.
            outputs: the files that its nodes named.
            cached: nodes that perhaps did not run; the recorded writer of their files stays.
        """
        for output in outputs:
            if (parent := prompt.get(output.node_id.partition(".")[0])) and output.node_id not in prompt:
                self._expanding.add(parent["class_type"])
            file, writer = _file(output), (key, output.node_id)
            if output.node_id in cached:
                self._writers.setdefault(file, writer)
            else:
                self._writers[file] = writer
            self._writers.move_to_end(file)
        while len(self._writers) > MOST_FILES:
            self._writers.popitem(last=False)

    def record_unfinished(
        self, key: str, prompt: Mapping[str, Any], outputs: Iterable[Output], cached: Collection[str] | None
    ) -> None:
        """Record the files that a prompt wrote before it failed or was cancelled: ComfyUI's cache has them.

        Args:
            key: the prompt's content key.
            prompt: as it was submitted.
            outputs: the files that its events named.
            cached: nodes that did not run, whose files prove nothing; None when no event named them.
        """
        if cached is not None and not self._shared:
            written = [output for output in outputs if output.node_id not in cached]
            self.record(key, prompt, written, {output.node_id for output in written})

    def unlisted(self, prompt: Mapping[str, Any], outputs: Iterable[Output], cached: Collection[str]) -> set[str]:
        """Return cached nodes that expand into saving nodes: ComfyUI no longer lists those nodes' files."""
        parents = {output.node_id.partition(".")[0] for output in outputs if output.node_id not in prompt}
        expanding = (node for node in cached if node in prompt and prompt[node]["class_type"] in self._expanding)
        return {node for node in expanding if node not in parents}

    def foreign_nodes(
        self, key: str, files: Sequence[OutputFile], prompt: Mapping[str, Any], cached: Collection[str]
    ) -> set[str]:
        """Return ids of nodes whose cached files may embed another job's workflow and cannot be patched. Reads them.

        Args:
            key: content key of the job that must have written the files.
            files: the files that the prompt named.
            prompt: as it was submitted.
            cached: as :func:`nodes_from_cache` returns them.
        """
        return {
            file.output.node_id
            for file in files
            if self._is_foreign(key, file.output, prompt, cached) and not _is_patchable(file)
        }

    def _is_foreign(self, key: str, output: Output, prompt: Mapping[str, Any], cached: Collection[str]) -> bool:
        if output.type == TEXT or output.node_id not in cached:
            return False
        writer = self._writers.get(_file(output))
        if writer is None:  # an inner node's file would be recorded if an earlier prompt of ours had written it
            return self._shared or output.node_id in prompt
        return writer != (key, output.node_id)


def _file(output: Output) -> _File:
    return output.type, output.subfolder, output.filename


def _is_patchable(file: OutputFile) -> bool:
    try:
        return media_type(file.output.filename, file.head()) == "image/png" and replaces_everything(file.read())
    except OSError:
        return False
