"""Which job wrote each file, so that nobody gets a file that carries another caller's workflow.

ComfyUI answers what it has run before from its cache, with the files of the job that ran it, and those carry that job's
prompt and workflow. A PNG gets its own texts on the way out (``results/png_text.py``). Every other kind, and a PNG with
more in it than ComfyUI writes, is saved anew unless this very prompt and workflow wrote it: rewriting is exact for the
few formats one knows, and silently wrong for the rest.

To save anew is to run the saving node alone: ComfyUI tells nodes apart by all their inputs, but hands them only those
that they declare, so that one more input makes a known node unknown and changes nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from worker.results.media_types import media_type
from worker.results.outputs import TEXT, Output, OutputFile
from worker.results.png_text import all_replaced

RERUN_INPUT = "saved_for"
MOST_FILES = 50_000  # about 20 MB; ComfyUI's own cache forgets far sooner

_File = tuple[str, str, str]


def content_key(prompt: Mapping[str, Any], extra_pnginfo: Mapping[str, Any]) -> str:
    """A name for all jobs whose files carry the same texts."""
    return hashlib.sha256(json.dumps([prompt, extra_pnginfo]).encode()).hexdigest()[:16]


def with_rerun_input(prompt: Mapping[str, Any], node_ids: Collection[str], author: str) -> dict[str, Any]:
    """The prompt with nodes that ComfyUI's cache does not know."""
    return {
        node_id: {**node, "inputs": {**node["inputs"], RERUN_INPUT: author}} if node_id in node_ids else node
        for node_id, node in prompt.items()
    }


def perhaps_earlier(outputs: Iterable[Output], prompt: Mapping[str, Any], cached: Collection[str]) -> frozenset[str]:
    """The nodes whose files an earlier prompt may have written. ComfyUI says so only of the prompt's own nodes, and
    keeps silent about those that they expanded into."""
    nodes = {output.node_id for output in outputs}
    return frozenset(node for node in nodes if node in cached or node not in prompt)


class CachedFiles:
    """Remembers who wrote the files of one ComfyUI.

    Args:
        shared: others use that ComfyUI as well, so that a file nobody here has seen may be theirs.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._known: OrderedDict[_File, tuple[str, str]] = OrderedDict()
        self._expanding: set[str] = set()
        """Classes of nodes that were seen to expand into others that save."""

    def note(self, author: str, prompt: Mapping[str, Any], outputs: Iterable[Output], cached: Collection[str]) -> None:
        """Take in what a prompt wrote.

        Args:
            author: of the prompt.
            prompt: as it was submitted.
            outputs: the files that its nodes named.
            cached: the nodes that perhaps did not run; what is known of their files stays.
        """
        for output in outputs:
            if (parent := prompt.get(output.node_id.partition(".")[0])) and output.node_id not in prompt:
                self._expanding.add(parent["class_type"])
            file, writer = _file(output), (author, output.node_id)
            if output.node_id in cached:
                self._known.setdefault(file, writer)
            else:
                self._known[file] = writer
            self._known.move_to_end(file)
        while len(self._known) > MOST_FILES:
            self._known.popitem(last=False)

    def note_unfinished(
        self, author: str, prompt: Mapping[str, Any], outputs: Iterable[Output], cached: Collection[str] | None
    ) -> None:
        """Take in what a prompt wrote before it failed or was cancelled: ComfyUI's cache has it.

        Args:
            author: of the prompt.
            prompt: as it was submitted.
            outputs: what its events named.
            cached: the nodes that did not run, which say nothing; None when that was not heard.
        """
        if cached is not None and not self._shared:
            mine = [output for output in outputs if output.node_id not in cached]
            self.note(author, prompt, mine, {output.node_id for output in mine})

    def unnamed(self, prompt: Mapping[str, Any], outputs: Iterable[Output], cached: Collection[str]) -> set[str]:
        """Cached nodes that expand into others that save: ComfyUI does not name those others' files any more."""
        parents = {output.node_id.partition(".")[0] for output in outputs if output.node_id not in prompt}
        expanding = (node for node in cached if node in prompt and prompt[node]["class_type"] in self._expanding)
        return {node for node in expanding if node not in parents}

    def others(
        self, author: str, files: Sequence[OutputFile], prompt: Mapping[str, Any], cached: Collection[str]
    ) -> set[str]:
        """The nodes whose files carry, or may carry, another job's texts that are not replaced. Reads them.

        Args:
            author: who must have written them.
            files: what the prompt named.
            prompt: as it was submitted.
            cached: as :func:`perhaps_earlier` found.
        """
        return {
            file.output.node_id
            for file in files
            if self._is_anothers(author, file.output, prompt, cached) and not _is_replaced(file)
        }

    def _is_anothers(self, author: str, output: Output, prompt: Mapping[str, Any], cached: Collection[str]) -> bool:
        if output.type == TEXT or output.node_id not in cached:
            return False
        writer = self._known.get(_file(output))
        if writer is None:  # of a node that another expanded into: it would be known if it were not this prompt's
            return self._shared or output.node_id in prompt
        return writer != (author, output.node_id)


def _file(output: Output) -> _File:
    return output.type, output.subfolder, output.filename


def _is_replaced(file: OutputFile) -> bool:
    try:
        return media_type(file.output.filename, file.head()) == "image/png" and all_replaced(file.read())
    except OSError:
        return False
