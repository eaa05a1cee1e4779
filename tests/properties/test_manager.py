"""A worker's models over any sequence of jobs, deletions by others, restarts and failures: what holds after each."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from model_manager import ModelManager
from tests.support.model_bench import FakeSource, model_bytes, put, tree
from worker.errors import Code, WorkerError
from worker.models.manifest import MANIFEST_PATH
from worker.settings import Settings

VERSIONS = st.lists(st.integers(1, 6), max_size=3, unique=True)
NAMES = {1: "m1.safetensors", 2: "x.safetensors", 3: "x.safetensors", 4: "X.safetensors", 5: "m5.safetensors"}
PRECIOUS = {
    "loras/x.safetensors": b"baked",
    "vae/sub/y.safetensors": b"baked too",
    "loras/z.ckpt": b"a pickle",
    "unet/u.safetensors": b"an older folder",
    "../beside/a.safetensors": b"not under models",
}


class Worker(RuleBasedStateMachine):
    """One models folder. ``precious`` holds what no job may ever take away, ``mine`` what workers brought."""

    @initialize(options=st.sampled_from([{}, {"KEEP_GB": "0.000005"}, {"KEEP_MODELS": "m1*"}, {"PRUNE": "0"}]))
    def start(self, options):
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name, "models")
        self.source, self.options = FakeSource(), options
        for version in range(1, 7):
            folder = "loras" if version < 5 else "vae"
            self.source.add(version, folder, NAMES.get(version), data=model_bytes(version, 1000 * version))
        for name, data in PRECIOUS.items():
            put(self.root, name, data)
        self.precious = dict(PRECIOUS)
        self.restart()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule()
    def restart(self):
        environ = {"COMFYUI_URL": "http://127.0.0.1:1", "MODELS_DIR": str(self.root), **self.options}
        self.worker = ModelManager(Settings.from_environ(environ), self.source, volume=Path("/no/such/volume"))

    @rule(
        versions=VERSIONS,
        prune=st.sampled_from([None, True, True, False]),
        named=st.integers(0, 6),
        skip=st.just(False),
    )
    def job(self, versions, prune, named, skip):
        self.source.fail_at = None
        self._run(versions, prune, named, skip)

    @rule(versions=VERSIONS, named=st.integers(0, 6))
    def skipped_job(self, versions, named):
        before = tree(self.root)
        self._run(versions, True, named, True)
        assert tree(self.root) == before

    @rule(versions=VERSIONS, at=st.integers(0, 2))
    def failing_job(self, versions, at):
        """A download fails: what was there stays, for nothing is pruned before all is present."""
        before = tree(self.root)
        self.source.fail_at = at
        try:
            self.worker.prepare(self.source.list(*versions), {})
        except WorkerError as error:
            assert error.code is Code.DOWNLOAD_FAILED
            assert before.items() <= tree(self.root).items()

    @rule(versions=VERSIONS)
    def job_with_an_unknown_line(self, versions):
        before = tree(self.root)
        try:
            self.worker.prepare(self.source.list(*versions, 99), {})
            raise AssertionError("a model that nobody has")
        except WorkerError as error:
            assert error.code is Code.MODEL_NOT_FOUND
        assert tree(self.root) == before

    @rule(number=st.integers(0, 9))
    def somebody_deletes_a_model(self, number):
        mine = sorted(set(tree(self.root)) - set(self.precious))
        if mine:
            (self.root / mine[number % len(mine)]).unlink()

    @rule(number=st.integers(0, 9))
    def somebody_cuts_a_model_short(self, number):
        mine = sorted(set(tree(self.root)) - set(self.precious))
        if mine:
            path = self.root / mine[number % len(mine)]
            os.truncate(path, path.stat().st_size // 2)

    @rule()
    def the_manifest_is_lost(self):
        """All that is there is precious to the next worker then: it cannot tell what was brought from what was not."""
        (self.root / MANIFEST_PATH).unlink(missing_ok=True)

    def _run(self, versions, prune, named, skip):
        prompt = {"1": {"class_type": "LoraLoader", "inputs": {"lora_name": f"sub\\m{named}.safetensors"}}}
        before, began = tree(self.root), time.time_ns()
        self.source.fetched.clear()
        result = self.worker.prepare(self.source.list(*versions), prompt, prune=prune, skip=skip)
        after = tree(self.root)
        gone = set(before) - set(after)
        assert {f"{each['folder']}/{each['name']}" for each in result.pruned} == gone
        assert not versions or not gone or (prune if prune is not None else self.options.get("PRUNE") != "0")
        assert versions or not gone
        assert not [name for name in gone if name.endswith(f"/m{named}.safetensors")]
        assert self.options.get("KEEP_MODELS") is None or not [name for name in gone if name.startswith("loras/m1")]
        assert len(self.source.fetched) == len(result.downloaded)
        if not skip:
            have = {f["identity"]: after[f"{f['folder']}/{f['name']}"] for f in result.ready + result.downloaded}
            assert have == {f"civitai:{version}:{version * 10}": self.source.models[version][3] for version in versions}
        changed = [name for name in before if name in after and before[name] != after[name]]
        assert not changed
        assert all((self.root / name).stat().st_mtime_ns >= began - 10**9 for name in set(after) - set(before))

    @invariant()
    def what_is_precious_is_there(self):
        if hasattr(self, "root"):
            there = {name: (self.root / name).read_bytes() for name in self.precious}
            assert there == self.precious


TestWorker = Worker.TestCase
TestWorker.settings = settings(max_examples=settings().max_examples // 3, stateful_step_count=12)
