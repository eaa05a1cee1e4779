"""The soak itself: real workers under a real endpoint, a loopback Civitai, a seeded load, and somebody who kills."""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.endpoint.support import FINAL, Client, EndpointProcess, all_gone, wait_until
from tests.soak import checks
from tests.soak.chaos import Chaos, worker_of
from tests.soak.generator import FOLDERS, Generator, Model, Plan, make_models
from tests.soak.ledger import Ending, Ledger
from tests.soak.watch import LOOK_EVERY_S, SAMPLE_EVERY_S, FolderWatch, ProcessWatch, Watcher, deleted_and_open
from tests.support.civitai_server import CivitaiServer

IN_FLIGHT_PER_WORKER = 3
POLL_S = 0.05
START_S, DRAIN_S = 90.0, 150.0
JOB_TIMEOUT_S = 60
LAST_LISTED = 3
KEPT = ("manifest.json", "lock")
"""All that a models folder holds beside models once no worker runs."""
THERE_BEFORE = "checkpoints/tiny.safetensors"
"""Lies in the models folder before the first worker: baked in, so never pruned."""
IS_THERE = re.compile(r"\| worker\.downloads\.pool \| (\S+\.safetensors) is there: ")
IS_PRUNED = re.compile(r"\| worker\.models\.pruner \| pruned \w+/(\S+\.safetensors) \(.*\): deleted$", re.MULTILINE)

Say = Callable[[float, Ledger], None]


@dataclass
class Result:
    """A finished soak; without violations it was clean."""

    seed: int
    ledger: Ledger
    seconds: float
    violations: list[str] = field(default_factory=list)
    growths: list[checks.Growth] = field(default_factory=list)
    largest_disk: int = 0
    models_bytes: int = 0


@dataclass
class _Out:
    """A job that has not ended yet."""

    plan: Plan
    asked: tuple[float, float]
    cancelled: bool = False


class Soak:
    """One run.

    Args:
        base: an empty folder for everything it writes.
        seconds: how long new jobs come and processes are killed.
        say: told now and then how much is over (0 to 1) and what was seen.
    """

    def __init__(self, base: Path, *, seconds: float, seed: int, workers: int = 3, say: Say = lambda *_: None) -> None:
        self._base, self._seconds, self._seed, self._workers, self._say = base, seconds, seed, workers, say
        self._ledger = Ledger()
        self._models = make_models(seed)
        self._out: dict[str, _Out] = {}
        self._root = base / "comfyui" / "models"

    def run(self) -> Result:
        """Soak, drain, look at what is left, judge."""
        with CivitaiServer() as site:
            self._links = {model.number: self._publish(site, model) for model in self._models}
            with self._endpoint(site) as endpoint:
                return self._soak(endpoint)

    def _publish(self, site: CivitaiServer, model: Model) -> str:
        kinds = {"ckpt": "Checkpoint", "lora": "LORA", "vae": "VAE"}
        wrong = {"sha256": "0" * 64} if model.corrupt else {}
        data = model.data()
        version = site.add_model(model.name, data, type=kinds[model.kind], bytes_per_s=model.bytes_per_s, **wrong)
        return f"https://civitai.com/api/download/models/{version}"

    def _endpoint(self, site: CivitaiServer) -> EndpointProcess:
        scratch = self._base / "tmp"
        scratch.mkdir()
        env = {"JOB_TIMEOUT_S": str(JOB_TIMEOUT_S), "PRUNE_ROOTS": str(self._root), "TMPDIR": str(scratch)}
        return EndpointProcess(self._base, "--workers", str(self._workers), **site.env(), **env)

    def _soak(self, endpoint: EndpointProcess) -> Result:
        client = endpoint.ready()
        self._wait_for_all(client)
        folder = FolderWatch(self._root, self._digests(), self._ledger)
        processes = ProcessWatch(lambda: named_family(endpoint))
        started = time.time()
        with Watcher(SAMPLE_EVERY_S, processes.look), Watcher(LOOK_EVERY_S, folder.look):
            self._load(client, Chaos(self._seed, endpoint.family))
            self._drain(client)
            left = [*self._last_job(client), *deleted_and_open(endpoint.family(), self._root)]
        family = [*endpoint.family(), endpoint.process.pid]
        if endpoint.terminate():
            left.append("the endpoint did not end well")
        if not all_gone(family):
            left.append("processes outlived the endpoint")
        self._ledger.downloads = names_in(endpoint.log, IS_THERE)
        self._ledger.deletions = names_in(endpoint.log, IS_PRUNED)
        result = Result(self._seed, self._ledger, time.time() - started)
        result.largest_disk, result.models_bytes = folder.largest, sum(model.size for model in self._models)
        result.growths = [g for name, samples in processes.samples.items() for g in checks.growths(name, samples)]
        result.violations = [*self._judge(), *left, *checks.check_growth(result.growths), *self._left_over()]
        return result

    def _digests(self) -> dict[str, set[str]]:
        tiny = (self._root / THERE_BEFORE).read_bytes()
        found = {THERE_BEFORE.rpartition("/")[2]: {hashlib.sha256(tiny).hexdigest()}}
        for model in self._models:
            if not model.corrupt:
                found.setdefault(model.name, set()).add(hashlib.sha256(model.data()).hexdigest())
        return found

    def _wait_for_all(self, client: Client) -> None:
        wait_until(lambda: client.health()["workers"]["idle"] >= self._workers, START_S)

    # The load

    def _load(self, client: Client, chaos: Chaos) -> None:
        plans = iter(Generator(self._seed, self._models, self._links))
        started = time.monotonic()
        strike_at = started + chaos.pause_s()
        while (now := time.monotonic()) - started < self._seconds:
            while len(self._out) < IN_FLIGHT_PER_WORKER * self._workers:
                self._submit(client, next(plans))
            if now >= strike_at:
                kill = chaos.strike((now - started) / self._seconds)
                if kill:
                    self._ledger.kills.append(kill)
                strike_at = now + chaos.pause_s()
            self._cancel_what_is_due(client)
            self._collect(client)
            self._say((now - started) / self._seconds, self._ledger)
            time.sleep(POLL_S)

    def _submit(self, client: Client, plan: Plan) -> str:
        before = time.time()
        job_id = client.submit(plan.fields)
        self._out[job_id] = _Out(plan, (before, time.time()))
        return job_id

    def _cancel_what_is_due(self, client: Client) -> None:
        now = time.time()
        for job_id, out in self._out.items():
            after_s = out.plan.cancel_after_s
            if after_s is not None and not out.cancelled and now >= out.asked[1] + after_s:
                client.ask("POST", f"/cancel/{job_id}")
                out.cancelled = True

    def _collect(self, client: Client) -> None:
        for job_id, out in list(self._out.items()):
            status = client.status(job_id)
            if status["status"] in FINAL:
                del self._out[job_id]
                self._ledger.endings.append(Ending(out.plan, job_id, out.asked, status, out.cancelled))

    def _drain(self, client: Client) -> None:
        until = time.monotonic() + DRAIN_S
        while self._out and time.monotonic() < until:
            self._cancel_what_is_due(client)
            self._collect(client)
            time.sleep(POLL_S)

    def _last_job(self, client: Client) -> list[str]:
        """One job more, with the endpoint to itself: afterwards there is what it lists, and nothing else."""
        self._wait_for_all(client)
        listed = self._models[4 : 4 + LAST_LISTED]
        fields = {"action": "ensure", "repo_list": Generator(0, self._models, self._links).repo_list(listed)}
        job_id = self._submit(client, Plan(-1, fields, tuple(model.number for model in listed)))
        client.wait(job_id, timeout_s=DRAIN_S)
        self._collect(client)
        there = [f"{folder}/{path.name}" for folder in FOLDERS.values() for path in (self._root / folder).iterdir()]
        right = [THERE_BEFORE, *self._ledger.endings[-1].places]
        return checks.check_left(there, right)

    # The verdict

    def _judge(self) -> list[str]:
        ledger, drawn = self._ledger, dict[str, str]()
        names = [model.name for model in self._models]
        found = [f"job {out.plan.number} ({job_id}) never ended" for job_id, out in self._out.items()]
        found += itertools.chain.from_iterable(checks.judge(each, ledger.kills, drawn) for each in ledger.endings)
        same = {name: names.count(name) for name in names}
        found += checks.check_downloads(ledger.downloads, ledger.removals, ledger.deletions, same)
        found += checks.check_in_use(ledger.endings, ledger.removals)
        found += checks.check_it_was_one(ledger.endings, ledger.removals, ledger.kills)
        found += [f"{place} has bytes that no model of its name has" for place in ledger.wrong_files]
        return found

    def _left_over(self) -> list[str]:
        """Unfinished downloads, and what dead workers left in the temporary folder and beside the manifest."""
        left = [*self._root.rglob("*.part"), *(self._base / "tmp").iterdir()]
        left += [path for path in (self._root / ".comfy-worker").rglob("*") if path.is_file() and path.name not in KEPT]
        return [f"{path.relative_to(self._base)} was left behind" for path in left]


def named_family(endpoint: EndpointProcess) -> dict[int, str]:
    """The endpoint and all it started, each with a name that a reader knows."""
    found = {endpoint.process.pid: "endpoint"}
    parts = {"reaper.py": "reaper", "handler.py": "handler", "main.py": "ComfyUI"}
    for pid, command in endpoint.family().items():
        kind = next((name for part, name in parts.items() if part in command), "other")
        found[pid] = f"{worker_of(pid) or '-'} {kind}"
    return found


def names_in(log: str, pattern: re.Pattern[str]) -> dict[str, int]:
    """How often a line of the workers' logs speaks of a model, by published name."""
    return dict(Counter(map(checks.published, pattern.findall(log))))
