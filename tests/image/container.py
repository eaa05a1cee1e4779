"""The image as RunPod would run it: its own entrypoint and environment, under buildah in a chroot.

A chroot shares the machine's processes, so those of a container are known by a variable of their environment that
everything it starts inherits. With ``pid_namespace`` the container is its process namespace's first, as on RunPod: when
it ends, the kernel ends the rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import uuid
from pathlib import Path

from tests.image.building import Storage

MARK = "IMAGE_TEST_CONTAINER"


class Container:
    """One run of an image; use as a context manager."""

    def __init__(
        self,
        storage: Storage,
        image: str,
        log: Path,
        env: dict[str, str],
        *,
        arguments: tuple[str, ...] = (),
        volumes: dict[Path, str] | None = None,
        pid_namespace: bool = False,
    ) -> None:
        self._storage, self._log = storage, log
        self._name = storage.buildah("from", image)
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        flags = [f"--env={name}={value}" for name, value in env.items()] + [f"--env={self._mark}"]
        flags += [f"--volume={source}:{target}" for source, target in (volumes or {}).items()]
        namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] if pid_namespace else []
        entrypoint = storage.config(image)["Entrypoint"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*namespace, "buildah", "run", *flags, self._name, "--", *entrypoint, *arguments],
                env=storage.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)
        self._storage.buildah("rm", self._name)

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def pids(self) -> list[int]:
        """Every process of the container, as the machine numbers them; none that only waits to be reaped."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._is_ours(path)]

    def _is_ours(self, environ: Path) -> bool:
        try:
            return self._mark.encode() in environ.read_bytes().split(b"\0")
        except OSError:
            return False

    def tini(self) -> int:
        """The entrypoint, which RunPod signals."""
        return next(pid for pid in self.pids() if _stat(pid)[0] == "tini")

    def handler(self) -> int:
        """The worker's main process (the SDK's ping process has the same command line)."""
        tini = self.tini()
        return next(pid for pid in self.pids() if _stat(pid)[1] == tini)

    def comfyui(self) -> int:
        """The ComfyUI that the handler started."""
        return next(pid for pid in self.pids() if b"main.py" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))

    def option(self, pid: int, name: str) -> str:
        """The value of a flag on a process's command line."""
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return words[words.index(name) + 1]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as `docker exec` does; needs ``pid_namespace``."""
        inside = ["nsenter", f"--target={self.tini()}", "--mount", "--pid", "--root", "--wd", "--"]
        return subprocess.run([*inside, *command], capture_output=True, text=True, timeout=60, check=False)


def _stat(pid: int) -> tuple[str, int]:
    """A process's name and its parent; ("", 0) when it is gone."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return "", 0
    return name, int(rest.split()[1])
