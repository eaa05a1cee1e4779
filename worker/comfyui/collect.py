"""A prompt's files, found where they lie, and which of them may not be returned to this caller."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from worker.comfyui.cached_files import CachedFiles, nodes_from_cache
from worker.comfyui.run import PromptRun
from worker.comfyui.server import ComfyServer
from worker.errors import Code, WorkerError
from worker.job import Prompt
from worker.results.outputs import Output, OutputFile, choose


@dataclass
class Collected:
    """A prompt's files, and what is wrong with the others."""

    files: list[OutputFile] = field(default_factory=list)
    """In node order, safe to return."""
    warnings: list[str] = field(default_factory=list)
    missing: list[Output] = field(default_factory=list)
    """Outputs whose file is gone."""
    to_rerun: set[str] = field(default_factory=set)
    """Nodes that must run again: their files carry another caller's texts, or ComfyUI does not list them."""
    from_cache: frozenset[str] = frozenset()
    """Nodes whose files an earlier prompt may have written."""

    @property
    def complete(self) -> bool:
        """True if no node has to run again."""
        return not self.missing and not self.to_rerun

    def or_error(self) -> Collected:
        """Return this, with a warning for each file that is left out.

        Raises:
            WorkerError: NO_OUTPUT, no file is left.
        """
        self.warnings += [f"{each.filename} of node {each.node_id} could not be read." for each in self.missing]
        unsaved = sorted(self.to_rerun)
        self.warnings += [f"The files of node {each} could not be saved for this job." for each in unsaved]
        if not self.files:
            raise WorkerError(Code.NO_OUTPUT, "the files that the prompt names cannot be read", self.warnings[-1])
        return self


class Collector:
    """Finds the files of one ComfyUI's prompts.

    Args:
        server: that ComfyUI.
    """

    def __init__(self, server: ComfyServer) -> None:
        self._server = server
        self.cached_files = CachedFiles(shared=server.external)

    async def collect(self, run: PromptRun, prompt: Prompt, outputs: list[Output]) -> Collected:
        """Find the files that a prompt's nodes named.

        Raises:
            WorkerError: NO_OUTPUT, the nodes named none.
        """
        run.set_phase("collecting", f"Collecting {len(outputs)} file{'s' * (len(outputs) != 1)}")
        known, key = self.cached_files, run.content_key
        if unlisted := known.unlisted(prompt, outputs, run.cached):
            return Collected(to_rerun=unlisted)
        chosen, warnings = choose(outputs)
        found = [(output, await self.find(output)) for output in chosen]
        files = [file for _, file in found if file]
        cached = nodes_from_cache(chosen, prompt, run.cached)
        foreign = await asyncio.to_thread(known.foreign_nodes, key, files, prompt, cached) if cached else set()
        own = [file for file in files if file.output.node_id not in foreign]
        known.record(key, prompt, [file.output for file in own], cached)
        return Collected(own, warnings, [output for output, file in found if not file], foreign, cached)

    async def find(self, output: Output) -> OutputFile | None:
        """Find an output on this disk, or fetch it through ComfyUI. Return None if it is gone."""
        if self._server.folder and (path := self._server.folder.find(output)):  # a stat costs less than a thread
            return OutputFile(output, path)
        if output.text is not None:
            return OutputFile(output, data=output.text.encode(errors="replace"))
        data = await self._server.api.view(output.filename, output.subfolder, output.type)
        return None if data is None else OutputFile(output, data=data)
