"""A prompt's files, found where they lie, and whether they are this prompt's to give out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from worker.comfyui.cached_files import CachedFiles, perhaps_earlier
from worker.comfyui.run import Run
from worker.comfyui.server import ComfyServer
from worker.errors import Code, WorkerError
from worker.job import Prompt
from worker.results.outputs import Output, OutputFile, choose


@dataclass
class Collected:
    """What was found of a prompt's files, and what is wrong with it."""

    files: list[OutputFile] = field(default_factory=list)
    """In node order, fit to be given out."""
    warnings: list[str] = field(default_factory=list)
    lost: list[Output] = field(default_factory=list)
    """Outputs whose file is gone."""
    stale: set[str] = field(default_factory=set)
    """Nodes that must run anew for their files: those there are carry another caller's texts, or are not named."""
    earlier: frozenset[str] = frozenset()
    """Nodes whose files an earlier prompt may have written."""

    @property
    def whole(self) -> bool:
        """Whether nothing has to be made anew."""
        return not self.lost and not self.stale

    def or_error(self) -> Collected:
        """This, with a warning for what could not be had.

        Raises:
            WorkerError: NO_OUTPUT, nothing could.
        """
        self.warnings += [f"{each.filename} of node {each.node_id} could not be read." for each in self.lost]
        self.warnings += [f"The files of node {each} could not be saved for this job." for each in sorted(self.stale)]
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
        self.authors = CachedFiles(shared=server.external)

    async def collect(self, run: Run, prompt: Prompt, outputs: list[Output]) -> Collected:
        """Find what a prompt's nodes named.

        Raises:
            WorkerError: NO_OUTPUT, there is nothing.
        """
        run.tell("collecting", f"Collecting {len(outputs)} file{'s' * (len(outputs) != 1)}")
        if unnamed := self.authors.unnamed(prompt, outputs, run.cached):
            return Collected(stale=unnamed)
        chosen, warnings = choose(outputs)
        found = [(output, await self.find(output)) for output in chosen]
        files = [file for _, file in found if file]
        earlier = perhaps_earlier(chosen, prompt, run.cached)
        stale = await asyncio.to_thread(self.authors.others, run.author, files, prompt, earlier) if earlier else set()
        fit = [file for file in files if file.output.node_id not in stale]
        self.authors.note(run.author, prompt, [file.output for file in fit], earlier)
        return Collected(fit, warnings, [output for output, file in found if not file], stale, earlier)

    async def find(self, output: Output) -> OutputFile | None:
        """An output where it lies: on this disk, else fetched through ComfyUI; None where it is gone."""
        if self._server.folder and (path := self._server.folder.find(output)):  # a stat costs less than a thread
            return OutputFile(output, path)
        if output.text is not None:
            return OutputFile(output, data=output.text.encode(errors="replace"))
        data = await self._server.api.view(output.filename, output.subfolder, output.type)
        return None if data is None else OutputFile(output, data=data)
