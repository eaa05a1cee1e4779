"""Delivery of a prompt's files: each prepared (this job's texts, its format), then inline or as a link.

``auto`` returns files inline if the whole answer fits, else through the bucket. Besides the answer itself, one file at
a time is in memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pybase64

from worker.errors import Code, WorkerError
from worker.job import Job
from worker.results.convert import NotConvertedError, convert, even_chunks
from worker.results.media_types import EXTENSIONS, media_type
from worker.results.metadata import RunInfo, generation_info, image_metadata, parameters_text, png_size
from worker.results.outputs import TEXT, OutputFile, UniqueNames, check_answer, too_large_error
from worker.results.png_text import NotPngError, replace_texts, texts_to_write
from worker.s3.upload import Body, Bucket
from worker.settings import Settings
from worker.stop import Stop, StoppedError

ESTIMATE_S = 3.0  # for the sizes in a RESULT_TOO_LARGE; a GPU is idle meanwhile
ESTIMATE_BYTES = 64 << 20
MAX_REPAIRED_BYTES = 64 << 20  # reading a larger WebP into memory is not worth its workflow

log = logging.getLogger(__name__)

Entry = dict[str, Any]
JobAnswer = dict[str, Any]


@dataclass(frozen=True)
class DeliveryOptions:
    """A job's delivery options, with the worker's settings as defaults."""

    to: str
    format: str
    quality: int
    metadata: bool
    limit_mb: float
    bucket: Bucket | None

    @classmethod
    def of(cls, job: Job, settings: Settings) -> DeliveryOptions:
        """Take the job's options, else the settings.

        A job with a bucket of its own, or of the official worker's shape where a bucket is configured, gets links: its
        caller expects them.

        Raises:
            WorkerError: INVALID_INPUT, links without a bucket, or a bucket whose address is not allowed.
        """
        if job.bucket:
            bucket: Bucket | None = Bucket.of_a_job(job.bucket, settings.private_hosts)
        else:
            bucket = Bucket(settings.bucket) if settings.bucket else None
        links = job.bucket or (job.official and bucket)
        to = job.result.to or ("s3" if links else settings.result_to)
        if to == "s3" and not bucket:
            raise WorkerError(
                Code.INVALID_INPUT,
                "`result.to` is s3, but this worker has no bucket",
                "Set BUCKET_ENDPOINT_URL and the bucket's keys on the endpoint, or send s3Config beside input.",
                details={"field": "result.to"},
            )
        chosen_format = job.result.format or settings.result_format
        quality = job.result.quality or settings.result_quality
        return cls(to, chosen_format, quality, job.metadata, settings.result_limit_mb, bucket)


@dataclass(frozen=True)
class RenderedFrom:
    """The job, prompt and run that files come from."""

    job_id: str
    prompt: Mapping[str, Any]
    """As it was submitted to ComfyUI."""
    extra_pnginfo: Mapping[str, Any] = field(default_factory=dict)
    cached: frozenset[str] = frozenset()
    """Nodes whose files are an earlier job's."""
    run_info: RunInfo = field(default_factory=RunInfo)


@dataclass(frozen=True)
class _PreparedFile:
    """A file as it is delivered."""

    entry: Entry
    body: Body


class Delivery:
    """Delivers one job's files. Blocks; for a thread.

    Args:
        options: of the job.
        rendered_from: the origin of the files.
        files: the files that the prompt saved, in order.
        stop: ends it at any moment.
    """

    def __init__(
        self, options: DeliveryOptions, rendered_from: RenderedFrom, files: Sequence[OutputFile], stop: Stop
    ) -> None:
        self._options, self._rendered_from, self._files, self._stop = options, rendered_from, files, stop
        self.entries: list[Entry] = []
        self.warnings: list[str] = []

    def entries_by_kind(self) -> dict[str, list[Entry]]:
        """Return ``images`` and ``files`` of the answer."""
        images = [entry for entry in self.entries if entry["media_type"].startswith("image/")]
        files = [entry for entry in self.entries if not entry["media_type"].startswith("image/")]
        return {"images": images, "files": files}

    def answer(self, build: Callable[[], JobAnswer]) -> JobAnswer:
        """Return the answer that ``build`` makes of :attr:`entries` and :attr:`warnings`, checked to be small enough.

        Raises:
            WorkerError: RESULT_TOO_LARGE, UPLOAD_FAILED or TIMEOUT.
            StoppedError: the job was cancelled.
        """
        if self._options.to != "s3":
            try:
                self.entries = self._inline()
                return self._checked(build())
            except WorkerError as error:
                if error.code is not Code.RESULT_TOO_LARGE:
                    raise
                if self._options.to == "base64" or not self._options.bucket:
                    raise self._with_remedies(error) from None
        assert self._options.bucket
        self.entries = self._linked(self._options.bucket)
        return self._checked(build())

    def _checked(self, answer: JobAnswer) -> JobAnswer:
        check_answer(answer, self._options.limit_mb)
        return answer

    async def in_thread(self, build: Callable[[], JobAnswer]) -> JobAnswer:
        """Run :meth:`answer` in a thread. On cancellation, wait until that has stopped."""
        working = asyncio.create_task(asyncio.to_thread(self.answer, build))
        try:
            return await asyncio.shield(working)
        finally:
            self._stop.set()
            await asyncio.gather(working, return_exceptions=True)

    # ------------------------------------------------------------------ the two ways

    def _inline(self) -> list[Entry]:
        """Return entries with base64. Raises as soon as they cannot fit."""
        if self._options.format == "original":
            self._check_sizes([file.size for file in self._files])
        entries, sizes = [], []
        for file in self._prepared():
            sizes.append(file.body.size)
            self._check_sizes(sizes)
            entries.append({"b64": pybase64.b64encode_as_string(file.body.read()), **file.entry})
        return entries

    def _check_sizes(self, sizes: Sequence[int]) -> None:
        encoded = sum((size + 2) // 3 * 4 for size in sizes)
        if encoded > self._options.limit_mb * 1e6:
            whole = max(encoded, self._encoded_size())
            raise too_large_error(whole, self._options.limit_mb, len(self._files))

    def _encoded_size(self) -> int:
        return sum((file.size + 2) // 3 * 4 for file in self._files) if self._options.format == "original" else 0

    def _linked(self, bucket: Bucket) -> list[Entry]:
        """Return entries with links; each file is uploaded while the next is prepared."""
        entries = []
        with bucket.uploads(self._stop) as uploads:
            for file in self._prepared():
                key = bucket.key(self._rendered_from.job_id, file.entry["subfolder"], file.entry["filename"])
                uploads.put(key, file.body, file.entry["media_type"])
                url, expires_s = bucket.link(key)
                expiry = {} if expires_s is None else {"expires_s": expires_s}
                entries.append({"url": url, **expiry, **file.entry})
        return entries

    # ------------------------------------------------------------------ one file

    def _prepared(self) -> Iterator[_PreparedFile]:
        """Yield each file as it is delivered, prepared on demand."""
        names = UniqueNames()
        self.warnings.clear()
        for file in self._files:
            if self._stop.is_set():
                raise StoppedError
            try:
                yield self._prepare(file, names)
            except OSError as error:
                what = f"{file.output.filename} could not be read any more ({error.strerror})"
                raise WorkerError(Code.INTERNAL, what, "Send the job again.") from error

    def _prepare(self, file: OutputFile, names: UniqueNames) -> _PreparedFile:
        output, head = file.output, file.head()
        kind = media_type(output.filename, head)
        filename, data = output.filename, file.data
        facts = self._metadata(file, head) if self._options.metadata and kind.startswith("image/") else {}
        repaired = self._repairing_reader(file, kind)
        if kind.startswith("image/") and self._options.format != "original":
            converted = self._convert(filename, repaired or file.read, facts.get("parameters"))
            if converted:
                data, kind = converted
                repaired = None
                filename = filename.rpartition(".")[0] + EXTENSIONS[kind]
        if repaired:
            data = repaired()
        body = Body(file.size if data is None else len(data), file.path if data is None else None, data)
        entry = {
            "filename": names.unique(filename),
            "subfolder": output.subfolder,
            "type": output.type,
            "node_id": output.node_id,
            "media_type": kind,
            "bytes": body.size,
            **facts,
        }
        return _PreparedFile({**entry, "text": output.text} if output.type == TEXT else entry, body)

    def _repairing_reader(self, file: OutputFile, kind: str) -> Callable[[], bytes] | None:
        """Return a function that reads the file repaired; None if the file is right."""
        if kind == "image/png" and file.output.node_id in self._rendered_from.cached:
            return lambda: self._with_own_texts(file)
        if kind == "image/webp" and file.size <= MAX_REPAIRED_BYTES:
            return lambda: even_chunks(file.read())
        return None

    def _with_own_texts(self, file: OutputFile) -> bytes:
        """Return a PNG from ComfyUI's cache with this job's prompt and workflow in place of the earlier job's."""
        data = file.read()
        wanted = {"prompt": self._rendered_from.prompt, **self._rendered_from.extra_pnginfo}
        try:
            texts = texts_to_write(data, wanted)
            return data if texts is None else replace_texts(data, texts)
        except NotPngError:
            return data
        except ValueError as error:
            log.warning("%s: %s", file.output.filename, error)
            return replace_texts(data, {})

    def _convert(self, filename: str, read: Callable[[], bytes], parameters: str | None) -> tuple[bytes, str] | None:
        try:
            converted = convert(read, self._options.format, self._options.quality, parameters)
        except NotConvertedError as reason:
            if str(reason):
                self.warnings.append(f"{filename} was left as it is: {reason}.")
            return None
        if converted.lost:
            self.warnings.append(f"{filename}: {converted.lost}.")
        return converted.data, converted.media_type

    def _metadata(self, file: OutputFile, head: bytes) -> dict[str, Any]:
        """Return ``metadata`` and ``parameters`` of an image; empty if a custom node's graph breaks them."""
        source, node_id = self._rendered_from, file.output.node_id
        try:
            info = generation_info(source.prompt, node_id)
            size = png_size(head)
            return {
                "metadata": image_metadata(info, source.prompt, node_id, source.run_info, size),
                "parameters": parameters_text(info, source.run_info, size),
            }
        except Exception:  # custom nodes can make any graph, which must not fail the job
            log.exception("no metadata for node %s", node_id)
            self.warnings.append(f"The metadata of {file.output.filename} could not be read from the prompt.")
            return {}

    # ------------------------------------------------------------------ too large

    def _with_remedies(self, error: WorkerError) -> WorkerError:
        """Return the error with the caller's options, and the size that the files would have in each format."""
        sizes = self._sizes_by_format()
        listed = " and ".join(f"{about}{size / 1e6:.1f} MB as {name}" for name, (size, about) in sizes.items())
        ways = [f'Ask for "result": {{"format": "webp"}} (the files would be {listed})'] if listed else []
        if not self._options.bucket:
            ways.append("configure a bucket (BUCKET_ENDPOINT_URL, or s3Config beside input) to get links")
        elif self._options.to == "base64":
            ways.append('ask for "result": {"to": "auto"} to get links from the bucket')
        ways.append("ask for fewer or smaller files")
        hint = ", or ".join(ways)
        by_format = {name: size for name, (size, _) in sizes.items()}
        details = {**error.details, **({"bytes_by_format": by_format} if by_format else {})}
        return WorkerError(error.code, error.message, f"{hint[0].upper()}{hint[1:]}.", details=details)

    def _sizes_by_format(self) -> dict[str, tuple[int, str]]:
        """Convert the files. Return their encoded size as WebP and JPEG; "about" if time was too short for all."""
        if self._options.format != "original" or sum(file.size for file in self._files) > ESTIMATE_BYTES:
            return {}
        before, after, rest = 0, {"webp": 0, "jpeg": 0}, 0
        until, images = time.monotonic() + min(ESTIMATE_S, self._stop.remaining_s() / 2), 0
        for file in self._files:
            if time.monotonic() > until or self._stop.is_set():
                break
            if media_type(file.output.filename, file.head()) not in ("image/png", "image/bmp", "image/tiff"):
                rest += file.size
                continue
            try:
                data = file.read()
                found = {name: len(convert(data, name, self._options.quality).data) for name in after}
            except NotConvertedError:
                rest += file.size
                continue
            images, before = images + 1, before + file.size
            after = {name: after[name] + found[name] for name in after}
        if not images:
            return {}
        unseen = sum(file.size for file in self._files) - before - rest
        scaled = {name: rest + size + unseen * size // before for name, size in after.items()}
        return {name: (size * 4 // 3, "about " if unseen else "") for name, size in scaled.items()}
