"""From a prompt's files to the answer: each made ready (this job's texts, its format), then inline or by the bucket.

``auto`` returns files inline when the whole answer fits and by the bucket when not. One file at a time is in memory,
but for what the answer itself holds.
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
from worker.results import metadata as sidecar
from worker.results.convert import NotConvertedError, convert, even_chunks
from worker.results.media_types import EXTENSIONS, media_type
from worker.results.outputs import TEXT, OutputFile, UniqueNames, check_answer, too_large
from worker.results.png_text import NotPngError, replace_texts, stale_texts
from worker.s3.upload import Body, Bucket
from worker.settings import Settings
from worker.stop import Stop, StoppedError

ESTIMATE_S = 3.0  # for the sizes in a RESULT_TOO_LARGE; a GPU waits
ESTIMATE_BYTES = 64 << 20

MENDED_BYTES = 64 << 20  # a larger WebP is not read into memory for the sake of its workflow

log = logging.getLogger(__name__)

Entry = dict[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True)
class DeliveryOptions:
    """How a job's files go out, with the worker's settings filled in."""

    to: str
    format: str
    quality: int
    metadata: bool
    limit_mb: float
    bucket: Bucket | None

    @classmethod
    def of(cls, job: Job, settings: Settings) -> DeliveryOptions:
        """What the job asked for, else what the settings say.

        A job that brings a bucket of its own, or has the official worker's shape where a bucket is configured, gets
        links: that is what those callers know.

        Raises:
            WorkerError: INVALID_INPUT, it wants links and there is no bucket, or one that must not be asked.
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
                "Set BUCKET_ENDPOINT_URL and its kin on the endpoint, or send s3Config beside input.",
                details={"field": "result.to"},
            )
        chosen_format = job.result.format or settings.result_format
        quality = job.result.quality or settings.result_quality
        return cls(to, chosen_format, quality, job.metadata, settings.result_limit_mb, bucket)


@dataclass(frozen=True)
class RenderedFrom:
    """What a job's files came from."""

    job_id: str
    prompt: Mapping[str, Any]
    """As ComfyUI got it, with the job's own ``extra_pnginfo`` beside it."""
    extra_pnginfo: Mapping[str, Any] = field(default_factory=dict)
    cached: frozenset[str] = frozenset()
    """Nodes whose files are an earlier job's."""
    origin: sidecar.RunInfo = field(default_factory=sidecar.RunInfo)


@dataclass(frozen=True)
class _Ready:
    """A file as it goes out."""

    entry: Entry
    body: Body

    def read(self) -> bytes:
        return self.body.read()


class Delivery:
    """One job's files on their way out. Blocks; for a thread.

    Args:
        wish: how they go.
        source: what they came from.
        files: what the prompt saved, in order.
        stop: ends it at any moment.
    """

    def __init__(self, wish: DeliveryOptions, source: RenderedFrom, files: Sequence[OutputFile], stop: Stop) -> None:
        self._wish, self._source, self._files, self._stop = wish, source, files, stop
        self.entries: list[Entry] = []
        self.warnings: list[str] = []

    def entries_by_kind(self) -> dict[str, list[Entry]]:
        """``images`` and ``files`` of the answer."""
        images = [entry for entry in self.entries if entry["media_type"].startswith("image/")]
        files = [entry for entry in self.entries if not entry["media_type"].startswith("image/")]
        return {"images": images, "files": files}

    def answer(self, build: Callable[[], Answer]) -> Answer:
        """The answer that ``build`` makes of :attr:`entries` and :attr:`warnings`, sure to be small enough.

        Raises:
            WorkerError: RESULT_TOO_LARGE, UPLOAD_FAILED or TIMEOUT.
            Stopped: the job was cancelled.
        """
        if self._wish.to != "s3":
            try:
                self.entries = self._inline()
                return self._checked(build())
            except WorkerError as error:
                if error.code is not Code.RESULT_TOO_LARGE:
                    raise
                if self._wish.to == "base64" or not self._wish.bucket:
                    raise self._with_ways_out(error) from None
        assert self._wish.bucket
        self.entries = self._linked(self._wish.bucket)
        return self._checked(build())

    def _checked(self, answer: Answer) -> Answer:
        check_answer(answer, self._wish.limit_mb)
        return answer

    async def in_thread(self, build: Callable[[], Answer]) -> Answer:
        """:meth:`answer` for an event loop; when it is cancelled nothing goes on."""
        working = asyncio.create_task(asyncio.to_thread(self.answer, build))
        try:
            return await asyncio.shield(working)
        finally:
            self._stop.set()
            await asyncio.gather(working, return_exceptions=True)

    # ------------------------------------------------------------------ the two ways

    def _inline(self) -> list[Entry]:
        """Entries with base64 in them; gives up as soon as they cannot fit."""
        if self._wish.format == "original":
            self._check_sizes([file.size for file in self._files])
        entries, sizes = [], []
        for ready in self._ready():
            sizes.append(ready.body.size)
            self._check_sizes(sizes)
            entries.append({"b64": pybase64.b64encode_as_string(ready.read()), **ready.entry})
        return entries

    def _check_sizes(self, sizes: Sequence[int]) -> None:
        encoded = sum((size + 2) // 3 * 4 for size in sizes)
        if encoded > self._wish.limit_mb * 1e6:
            whole = max(encoded, self._encoded_size())
            raise too_large(whole, self._wish.limit_mb, len(self._files))

    def _encoded_size(self) -> int:
        return sum((file.size + 2) // 3 * 4 for file in self._files) if self._wish.format == "original" else 0

    def _linked(self, bucket: Bucket) -> list[Entry]:
        """Entries with links; each file is uploaded while the next is made ready."""
        entries = []
        with bucket.uploads(self._stop) as uploads:
            for ready in self._ready():
                key = bucket.key(self._source.job_id, ready.entry["subfolder"], ready.entry["filename"])
                uploads.put(key, ready.body, ready.entry["media_type"])
                url, expires_s = bucket.link(key)
                life = {} if expires_s is None else {"expires_s": expires_s}
                entries.append({"url": url, **life, **ready.entry})
        return entries

    # ------------------------------------------------------------------ one file

    def _ready(self) -> Iterator[_Ready]:
        """Each file as it goes out, made ready when it is asked for."""
        names = UniqueNames()
        self.warnings.clear()
        for file in self._files:
            if self._stop.is_set():
                raise StoppedError
            try:
                yield self._make_ready(file, names)
            except OSError as error:
                what = f"{file.output.filename} could not be read any more ({error.strerror})"
                raise WorkerError(Code.INTERNAL, what, "Send the job again.") from error

    def _make_ready(self, file: OutputFile, names: UniqueNames) -> _Ready:
        output, head = file.output, file.head()
        kind = media_type(output.filename, head)
        filename, data = output.filename, file.data
        facts = self._sidecar(file, head) if self._wish.metadata and kind.startswith("image/") else {}
        mended = self._mended(file, kind)
        if kind.startswith("image/") and self._wish.format != "original":
            changed = self._convert(filename, mended or file.read, facts.get("parameters"))
            if changed:
                data, kind = changed
                mended = None
                filename = filename.rpartition(".")[0] + EXTENSIONS[kind]
        if mended:
            data = mended()
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
        return _Ready({**entry, "text": output.text} if output.type == TEXT else entry, body)

    def _mended(self, file: OutputFile, kind: str) -> Callable[[], bytes] | None:
        """What reads the file as it should be; None when it should be as it is."""
        if kind == "image/png" and file.output.node_id in self._source.cached:
            return lambda: self._with_own_texts(file)
        if kind == "image/webp" and file.size <= MENDED_BYTES:
            return lambda: even_chunks(file.read())
        return None

    def _with_own_texts(self, file: OutputFile) -> bytes:
        """A PNG from ComfyUI's cache, with this job's prompt and workflow in place of the earlier job's."""
        data = file.read()
        wanted = {"prompt": self._source.prompt, **self._source.extra_pnginfo}
        try:
            texts = stale_texts(data, wanted)
            return data if texts is None else replace_texts(data, texts)
        except NotPngError:
            return data
        except ValueError as error:
            log.warning("%s: %s", file.output.filename, error)
            return replace_texts(data, {})

    def _convert(self, filename: str, read: Callable[[], bytes], parameters: str | None) -> tuple[bytes, str] | None:
        try:
            converted = convert(read, self._wish.format, self._wish.quality, parameters)
        except NotConvertedError as reason:
            if str(reason):
                self.warnings.append(f"{filename} was left as it is: {reason}.")
            return None
        if converted.lost:
            self.warnings.append(f"{filename}: {converted.lost}.")
        return converted.data, converted.media_type

    def _sidecar(self, file: OutputFile, head: bytes) -> dict[str, Any]:
        """``metadata`` and ``parameters`` of an image; what custom nodes do must not fail the job."""
        source, node_id = self._source, file.output.node_id
        try:
            made = sidecar.recipe(source.prompt, node_id)
            size = sidecar.png_size(head)
            return {
                "metadata": sidecar.metadata(made, source.prompt, node_id, source.origin, size),
                "parameters": sidecar.parameters(made, source.origin, size),
            }
        except Exception:  # a graph of custom nodes
            log.exception("no metadata for node %s", node_id)
            self.warnings.append(f"The metadata of {file.output.filename} could not be made out.")
            return {}

    # ------------------------------------------------------------------ too large

    def _with_ways_out(self, error: WorkerError) -> WorkerError:
        """The error with what the caller can do, and the size that each format would have had."""
        sizes = self._sizes_by_format()
        said = " and ".join(f"{about}{size / 1e6:.1f} MB as {name}" for name, (size, about) in sizes.items())
        ways = [f'Ask for "result": {{"format": "webp"}} (the files would be {said})'] if said else []
        if not self._wish.bucket:
            ways.append("configure a bucket (BUCKET_ENDPOINT_URL, or s3Config beside input) to get links")
        elif self._wish.to == "base64":
            ways.append('ask for "result": {"to": "auto"} to get links from the bucket')
        ways.append("ask for fewer or smaller files")
        hint = ", or ".join(ways)
        by_format = {name: size for name, (size, _) in sizes.items()}
        details = {**error.details, **({"bytes_by_format": by_format} if by_format else {})}
        return WorkerError(error.code, error.message, f"{hint[0].upper()}{hint[1:]}.", details=details)

    def _sizes_by_format(self) -> dict[str, tuple[int, str]]:
        """Encoded size of all files as WebP and JPEG, found by converting; "about" where time was too short for all."""
        if self._wish.format != "original" or sum(file.size for file in self._files) > ESTIMATE_BYTES:
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
                found = {name: len(convert(data, name, self._wish.quality).data) for name in after}
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
