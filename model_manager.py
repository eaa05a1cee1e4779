"""repo_list -> files on disk: each job's models made present under their canonical names, the rest pruned.

Joins the rooms that do the work and reads like a table of contents: what the lines mean (``worker/repo_list.py``), what
is on disk (``worker/inventory.py``), what to do about it (``worker/plan.py``), where models come from (a
:class:`worker.model_types.Source`) and how files go (``worker/prune.py``). Knows nothing of ComfyUI but a function that
makes it let go of its files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from worker import plan
from worker.cancel import Stop
from worker.errors import Code, WorkerError
from worker.inventory import MANIFEST_VERSION, THIS_HOST, DiskFile, Entry, Inventory, ModelFolders, Place
from worker.model_types import MANAGED_FOLDERS, Download, ModelFile, RepoLine, Report, Source
from worker.names import SAFE_EXTENSIONS
from worker.part_files import free_bytes, sweep_parts
from worker.plan import Want
from worker.progress import amount
from worker.prompts import Mentions, Names, model_names
from worker.prune import Outcome, PrunePlan, PruneRules, delete, disk_full, is_within, plan_prune, room_first
from worker.readahead import ReadAhead
from worker.repo_list import parse_repo_list
from worker.safetensors import SafetensorsError, check_safetensors
from worker.settings import NETWORK_VOLUME, Settings

log = logging.getLogger(__name__)

ROUNDS = 3
"""How often a job brings its models anew when another worker deletes them under it."""
USES_EVERY_S = 60.0
"""How old the manifest's ``last_used`` may be: writing it for every job would cost more than knowing it is worth."""
ROOM_WAIT_S = 10.0
"""How long deleted bytes may take to come free: ComfyUI's mapping of a file holds them until it lets go."""
HASH_STEP = 4 << 20
HASHERS = 4

Parse = Callable[[str], Sequence[RepoLine]]
Facts = dict[str, Any]


@dataclass(frozen=True)
class ModelReport:
    """What :meth:`ModelManager.prepare` did, for the answer, and what the prompt's names mean now."""

    ready: list[Facts] = field(default_factory=list)
    """Listed models that were there: ``name``, ``folder``, ``bytes``, ``identity``."""
    downloaded: list[Facts] = field(default_factory=list)
    pruned: list[Facts] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    names: Names = field(default_factory=Names)
    """For :func:`worker.prompts.match_models`."""

    def answer(self) -> dict[str, list[Facts]]:
        """The ``models`` of the job's answer."""
        return {"ready": self.ready, "downloaded": self.downloaded, "pruned": self.pruned}


@dataclass
class _Job:
    """One call of ``prepare``: what it was given, and what it has done so far."""

    lines: Sequence[RepoLine]
    mentions: Mentions
    prune: bool
    stop: Stop
    report: Report
    alone: Callable[[], bool]
    started_ns: int
    read_ahead: bool
    downloaded: dict[Place, Entry] = field(default_factory=dict)
    pruned: list[Facts] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    deleted: set[Place] = field(default_factory=set)
    taken: set[Place] = field(default_factory=set)
    """Names that other workers' files took while this job's were fetched."""
    released: bool = False


class ModelManager:
    """Keeps one worker's models. Build it once, before the first job: what is on its disk then is never pruned.

    Args:
        settings: where the models are and what may be pruned.
        source: where missing models come from; the sites of ``worker.sites`` when left out.
        release: makes ComfyUI let go of files it has loaded; called before the first of them is deleted.
        parse: reads a repo_list; :func:`worker.repo_list.parse_repo_list` when left out.
        volume: where a shared network volume would be mounted.
        free_bytes: what the disk of a folder has free.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source | None = None,
        release: Callable[[], None] | None = None,
        *,
        parse: Parse | None = None,
        volume: Path = NETWORK_VOLUME,
        free_bytes: Callable[[Path], int] = free_bytes,
    ) -> None:
        self.settings = settings
        self.root = settings.models_dir.resolve()
        self.shared = is_within(self.root, [volume.resolve()])
        self.folders = ModelFolders(self.root)
        self._source = source or _sites(settings)
        self._parse = parse or _parser(settings)
        self._release = release
        self._free_bytes = free_bytes
        self._lock = threading.Lock()
        self._spent: dict[Place, str] = {}
        self._used: dict[Place, float] = {}
        self._read_ahead: ReadAhead | None = None
        self._baked = frozenset() if self.shared else self.folders.read().not_brought_here(THIS_HOST)
        self._sweep()

    def prepare(
        self,
        repo_list: str,
        prompt: Mapping[str, Any],
        *,
        prune: bool | None = None,
        skip: bool = False,
        stop: Stop | None = None,
        report: Report = lambda _: None,
        alone: Callable[[], bool] = lambda: True,
        read_ahead: bool = False,
    ) -> ModelReport:
        """Make the listed models present and prune the rest. Blocks; run it in a thread.

        Args:
            repo_list: the job's lines; none means that nothing is ensured and nothing pruned.
            prompt: the job's prompt; the models it names are not pruned.
            prune: the job's own wish; None for the environment's.
            skip: leave models alone.
            stop: cancels, also while another job's models are being fetched.
            report: told how far the downloads are.
            alone: whether no other job of this process may be using models; asked right before deleting.
            read_ahead: also read the models that the prompt names into memory (while ComfyUI starts).

        Raises:
            WorkerError: a line cannot be read or found, a download failed, the disk is full. Nothing was pruned then,
                but for what had to make room first; what was fetched stays.
            worker.cancel.Stopped: ``stop`` was set.
        """
        job = _Job(
            lines=[] if skip else self._parse(repo_list),
            mentions=model_names(prompt),
            prune=self.settings.prune if prune is None else prune,
            stop=stop or Stop(),
            report=report,
            alone=alone,
            started_ns=time.time_ns(),
            read_ahead=read_ahead,
        )
        with self._one_at_a_time(job.stop):
            for _ in range(ROUNDS):
                result = self._ensure(job)
                if result:
                    return result
                log.info("another worker was at the same models; looking again")
        raise WorkerError(
            Code.DOWNLOAD_FAILED,
            "other workers on this volume keep changing the models of this job",
            "Send it again; if it stays, take the volume out of PRUNE_ROOTS, or give its endpoints one repo_list.",
        )

    def inspect(self) -> Facts:
        """What this worker has: ``models`` by folder, ``disk`` in bytes, what it may prune, ``versions``."""
        inventory = self.folders.read(fresh=True)
        models: dict[str, list[Facts]] = {}
        for place, file in sorted(inventory.files.items()):
            facts = _facts(file, inventory.entries.get(place))
            facts["baked"] = file.fingerprint in self._baked
            models.setdefault(place.folder, []).append(facts)
        usage = shutil.disk_usage(_existing(self.root))
        return {
            "models": models,
            "disk": {"free_bytes": usage.free, "total_bytes": usage.total, "shared_volume": self.shared},
            "prune": self._rules(time.time_ns(), wanted=self.settings.prune, empty=False, alone=True).why_not() or "on",
            "versions": _versions(),
        }

    def close(self) -> None:
        """Stop the thread that may be reading ahead."""
        if self._read_ahead:
            self._read_ahead.close()

    def _ensure(self, job: _Job) -> ModelReport | None:
        """One round; None when a file of the job was gone again at its end."""
        inventory, known, unknown = self._look(job)
        if not job.lines:
            return ModelReport(names=plan.names_of(inventory, {}))
        found, wants = self._recognise(job, inventory, unknown)
        present = {entry.place: entry for entry in (*known, *found)}
        places = plan.place_new(wants, inventory, self._spent)
        pruning = plan_prune(inventory, present, job.mentions, self._job_rules(job))
        _log_plan(present, wants, places, pruning)
        if wants:
            self._sweep()
            self._make_room(job, inventory, wants, pruning)
        begun = {place: plan.note_begun(want, place, time.time()) for want, place in zip(wants, places, strict=True)}
        self.folders.commit({**_changed(present, inventory), **begun})
        fetched = self._fetch(job, wants, places)
        job.downloaded |= fetched
        listed = present | fetched
        if unknown and not (len(fetched) == len(wants) and self._are_there(listed.values())):
            return None
        self._prune(job, inventory, pruning)
        self._note_use(listed, inventory, pruning)
        return self._result(job, listed, inventory)

    @contextmanager
    def _one_at_a_time(self, stop: Stop) -> Iterator[None]:
        """Jobs of one worker take turns: the second finds the first one's models there."""
        while not self._lock.acquire(timeout=0.1):
            stop.check()
        try:
            yield
        finally:
            self._lock.release()

    def _look(self, job: _Job) -> tuple[Inventory, list[Entry], list[RepoLine]]:
        """The disk now, the listed files on it, and the lines that it does not answer.

        The job's own files are looked at one by one: a file that was changed does not change its folder.
        """
        inventory = self.folders.read()
        known, unknown = plan.split_known(job.lines, inventory)
        if not self._are_there(known):
            inventory = self.folders.read(fresh=True)
            known, unknown = plan.split_known(job.lines, inventory)
        if job.read_ahead:
            job.read_ahead = False
            self._start_reading_ahead(job, inventory, {entry.place for entry in known})
        return inventory, known, unknown

    def _are_there(self, entries: Iterable[Entry]) -> bool:
        return all(self.folders.same(entry) for entry in entries)

    def _start_reading_ahead(self, job: _Job, inventory: Inventory, listed: Collection[Place]) -> None:
        self.close()
        named = [file for file in inventory.files.values() if job.mentions.cover(file.place.name)]
        named.sort(key=lambda file: (file.place not in listed, -file.size))
        self._read_ahead = ReadAhead([(self.folders.path(file.place), file.size) for file in named])

    def _recognise(
        self, job: _Job, inventory: Inventory, unknown: Sequence[RepoLine]
    ) -> tuple[list[Entry], list[Want]]:
        """Look lines up that the manifest does not know: files that are there nonetheless, and those to fetch."""
        if not unknown:
            return [], []
        files = self._source.resolve(unknown, job.stop)
        found, missing = [], []
        for want in plan.gather(files):
            entry = inventory.by_identity.get((want.file.identity, want.file.folder))
            if entry:
                found.append(plan.note_names(entry, want))
            else:
                missing.append(want)
        adopted = self._adopt(job, inventory, missing)
        return [*found, *adopted.values()], [want for want in missing if want not in adopted]

    def _adopt(self, job: _Job, inventory: Inventory, wants: Sequence[Want]) -> dict[Want, Entry]:
        """The wanted files that are on disk already: right name, right size, right bytes."""
        candidates = {want: plan.adoptable(want, inventory) for want in wants}
        searching = [want for want, files in candidates.items() if files]
        if not searching:
            return {}

        def search(want: Want) -> Entry | None:
            untaken = (file for file in candidates[want] if file.place not in job.taken)
            file = next((f for f in untaken if _is_right(self.folders.path(f.place), want.file, job.stop)), None)
            if not file:
                return None
            log.info("%s is there already", file.place)
            origin = "downloaded" if file.place in inventory.pending else "adopted"
            return plan.note(want, file, time.time(), sha256=want.file.sha256, origin=origin)

        with ThreadPoolExecutor(HASHERS, "adopt") as pool:
            found = list(zip(searching, pool.map(search, searching), strict=True))
        first: dict[Place, tuple[Want, Entry]] = {}
        for want, entry in found:
            if entry:
                first.setdefault(entry.place, (want, entry))
        return dict(first.values())

    def _rules(self, started_ns: int, *, wanted: bool, empty: bool, alone: bool) -> PruneRules:
        settings = self.settings
        named = is_within(self.root, [root.resolve() for root in settings.prune_roots])
        return PruneRules(
            wanted=wanted,
            list_empty=empty,
            shared=self.shared and not named,
            alone=alone,
            started_ns=started_ns,
            dry_run=settings.prune_dry_run,
            keep_globs=settings.keep_models,
            keep_bytes=int(settings.keep_gb * 1e9),
            baked=self._baked,
            used_since=time.time() - settings.job_timeout_s - USES_EVERY_S if self.shared else None,
            last_used=self._used,
        )

    def _job_rules(self, job: _Job) -> PruneRules:
        return self._rules(job.started_ns, wanted=job.prune, empty=not job.lines, alone=job.alone())

    def _sweep(self) -> None:
        """Free the space of downloads that were killed."""
        for folder in MANAGED_FOLDERS:
            sweep_parts(self.root / folder)

    def _make_room(self, job: _Job, inventory: Inventory, wants: Sequence[Want], pruning: PrunePlan) -> None:
        """Delete unlisted models before the download, only if it does not fit without and does fit with it."""
        needed = sum(want.file.size or 0 for want in wants)
        free = self._free_bytes(_existing(self.root))
        first = room_first(pruning, needed, free, shared=self.shared)
        if first is None:
            raise disk_full(pruning, needed, free)
        if first:
            log.info("making room for %s: %d files go first", amount(needed), len(first))
            self._delete(job, inventory, first)
            self._wait_for_room(job.stop, needed)

    def _wait_for_room(self, stop: Stop, needed: int) -> None:
        until = time.monotonic() + ROOM_WAIT_S
        while (free := self._free_bytes(self.root)) < needed:
            if time.monotonic() > until:
                what = f"the missing models need {amount(needed)} but the disk has {amount(free)} free"
                raise WorkerError(
                    Code.DISK_FULL, f"{what}, though unlisted models were deleted: something still maps them"
                )
            stop.sleep(0.2)

    def _fetch(self, job: _Job, wants: Sequence[Want], places: Sequence[Place]) -> dict[Place, Entry]:
        """Bring the files and note each in the manifest, as it is now: another worker may have brought it.

        When one fails, the finished ones stay noted as begun: the next job that wants them recognises them. Fewer
        entries than wants mean that another worker was at work here, and that it is worth looking again.
        """
        if not wants:
            return {}
        downloads = [Download(want.file, self.folders.path(place)) for want, place in zip(wants, places, strict=True)]
        try:
            done = {each.path: each for each in self._source.fetch(downloads, job.stop, job.report)}
        except BaseException as error:
            taken = self._taken_name(error, wants, places)
            self.folders.commit({place: None for place in places if place == taken or not self.folders.look(place)})
            if not taken:
                raise
            job.taken.add(taken)
            log.warning("another worker gave the name %s to another file; choosing again", taken)
            return {}
        fetched = {}
        for want, place in zip(wants, places, strict=True):
            result, file = done.get(self.folders.path(place)), self.folders.look(place)
            if result and file and file.size == result.size:
                fetched[place] = plan.note(want, file, time.time(), sha256=result.sha256, origin="downloaded")
        self.folders.commit({place: fetched.get(place) for place in places})
        return fetched

    def _taken_name(self, error: BaseException, wants: Sequence[Want], places: Sequence[Place]) -> Place | None:
        """The place that a download failed at because something is there by now; None when it failed otherwise."""
        number = error.details.get("line") if isinstance(error, WorkerError) else None
        failed = (place for want, place in zip(wants, places, strict=True) if want.file.line.number == number)
        return next((place for place in failed if os.path.lexists(self.folders.path(place))), None)

    def _prune(self, job: _Job, inventory: Inventory, pruning: PrunePlan) -> None:
        if pruning.withheld:
            if pruning.doomed:
                names = ", ".join(str(file.place) for file in pruning.doomed)
                job.warnings.append(f"{pruning.withheld}: {len(pruning.doomed)} models would have gone: {names}")
            return
        self._delete(job, inventory, [file for file in pruning.doomed if file.place not in job.deleted])

    def _delete(self, job: _Job, inventory: Inventory, doomed: Sequence[DiskFile]) -> None:
        if not doomed or not job.alone():
            return
        self._let_go(job)
        for file in doomed:
            try:
                outcome = delete(self.root, file)
            except OSError as error:
                job.warnings.append(f"{file.place} could not be pruned: {error.strerror}")
                continue
            log.info("pruned %s (%s): %s", file.place, amount(file.size), outcome.value)
            if outcome is Outcome.DELETED:
                entry = inventory.entries.get(file.place)
                self._spent[file.place] = entry.identity if entry else f"unknown:{file.size}:{file.mtime_ns}"
                job.pruned.append(_facts(file, entry))
                job.deleted.add(file.place)
        self.folders.commit(dict.fromkeys(job.deleted))

    def _let_go(self, job: _Job) -> None:
        """Ask ComfyUI once a job to close its files: a mapped file keeps its disk space though it is deleted."""
        if self._release and not job.released:
            job.released = True
            try:
                self._release()
            except (OSError, WorkerError) as error:
                log.warning("ComfyUI did not let go of its models (%s)", type(error).__name__)

    def _note_use(self, listed: Mapping[Place, Entry], inventory: Inventory, pruning: PrunePlan) -> None:
        """Remember when the job's models were used; written down only if what is written is rather old."""
        now = time.time()
        named = (place for place, reason in pruning.kept.items() if reason == "named by the prompt")
        used = [*listed, *named]
        self._used.update(dict.fromkeys(used, now))
        entries = {**inventory.entries, **listed}
        stale = [entries[place] for place in used if place in entries and entries[place].last_used < now - USES_EVERY_S]
        if stale:
            self.folders.commit({entry.place: replace(entry, last_used=now) for entry in stale})

    def _result(self, job: _Job, listed: Mapping[Place, Entry], inventory: Inventory) -> ModelReport:
        after = self.folders.read() if _changed(listed, inventory) or job.deleted else inventory
        ready = [_listed_facts(entry) for place, entry in listed.items() if place not in job.downloaded]
        return ModelReport(
            ready=ready,
            downloaded=[_listed_facts(entry) for entry in job.downloaded.values()],
            pruned=job.pruned,
            warnings=job.warnings,
            names=plan.names_of(after, listed),
        )


def _sites(settings: Settings) -> Source:
    from worker.sites import ModelSites  # noqa: PLC0415 - a worker with a source of its own needs no sites

    return ModelSites(settings)


def _parser(settings: Settings) -> Parse:
    """Reads each list once: a worker gets the same one again and again."""

    @lru_cache(maxsize=16)
    def parse(repo_list: str) -> Sequence[RepoLine]:
        return parse_repo_list(repo_list, hosts=settings.model_hosts, allow_pickle=settings.allow_pickle)

    return parse


def _changed(present: Mapping[Place, Entry], inventory: Inventory) -> dict[Place, Entry]:
    return {place: entry for place, entry in present.items() if inventory.entries.get(place) is not entry}


def _is_right(path: Path, wanted: ModelFile, stop: Stop) -> bool:
    """Whether the bytes on disk are the wanted ones, as far as the site says what those are."""
    try:
        if path.name.lower().endswith(SAFE_EXTENSIONS):
            check_safetensors(path)
        return wanted.sha256 is None or _sha256(path, stop) == wanted.sha256
    except (OSError, SafetensorsError):
        return False


def _sha256(path: Path, stop: Stop) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(HASH_STEP):
            stop.check()
            digest.update(chunk)
    return digest.hexdigest()


def _facts(file: DiskFile, entry: Entry | None) -> Facts:
    facts = {"name": file.place.name, "folder": file.place.folder, "bytes": file.size}
    return {**facts, "identity": entry.identity} if entry else facts


def _listed_facts(entry: Entry) -> Facts:
    place = entry.place
    return {"name": place.name, "folder": place.folder, "bytes": entry.size, "identity": entry.identity}


def _log_plan(present: Collection[Place], wants: Sequence[Want], places: Sequence[Place], pruning: PrunePlan) -> None:
    """Say what is going to happen before anything does."""
    log.info("models: %d there, %d to fetch, %d to prune", len(present), len(places), len(pruning.doomed))
    for want, place in zip(wants, places, strict=True):
        size = "size unknown" if want.file.size is None else amount(want.file.size)
        log.info("fetch %s (%s, %s)", place, size, want.file.identity)
    for file in pruning.doomed:
        log.info("prune %s (%s): not listed, not named by the prompt", file.place, amount(file.size))
    for place, reason in pruning.kept.items():
        log.debug("keep %s: %s", place, reason)
    if pruning.withheld:
        log.info("nothing is pruned: %s", pruning.withheld)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: a models root may not have been made yet."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _versions() -> Facts:
    return {"python": platform.python_version(), "manifest": MANIFEST_VERSION}
