"""The worker processes: ``handler.py`` under the real SDK, started, replaced and ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path

from endpoint.job_queue import Desk
from endpoint.options import Options
from endpoint.workers import Crew, Member

REPO_ROOT = Path(__file__).resolve().parent.parent
GUARD = Path(__file__).with_name("reaper.py")
COMMAND = (sys.executable, str(REPO_ROOT / "handler.py"))
SDK_CONFIG = Path("~/.runpod/config.toml")
BACK_OFF_S = (0.5, 30.0)  # the first wait before a worker is started again, and the longest
STEADY_S = 30.0  # one that lived this long did not fail to start
REPLACE_GRACE_S = 5.0  # for one that asked to be replaced: it ends itself, and has no job any more
KILL_GRACE_S = 5.0

log = logging.getLogger(__name__)


def worker_environment(environ: Mapping[str, str], member: Member, url: str, endpoint_id: str) -> dict[str, str]:
    """What makes the SDK work for this endpoint: the user's environment without RunPod's variables, and ours."""
    own = {name: value for name, value in environ.items() if not name.startswith("RUNPOD_")}
    # The SDK sends the key of its configuration file, where there is one, in place of the one in the environment.
    query = f"gpu=local&secret={member.secret}" if SDK_CONFIG.expanduser().exists() else "gpu=local"
    return {
        "RUNPOD_LOG_LEVEL": "INFO",
        **own,
        "RUNPOD_POD_ID": member.id,
        "RUNPOD_ENDPOINT_ID": endpoint_id,
        "RUNPOD_AI_API_KEY": member.secret,
        "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID?{query}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/$RUNPOD_POD_ID/$ID?{query}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{url}/job-stream/$RUNPOD_POD_ID/$ID?{query}",
        "RUNPOD_WEBHOOK_PING": f"{url}/ping/$RUNPOD_POD_ID?{query}",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",  # they are for RunPod's machines, and dial 8.8.8.8
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "PYTHONUNBUFFERED": "1",
    }


class WorkerSlot:
    """Keeps one worker process there until :meth:`stop`.

    Args:
        number: from 1; part of the worker's id.
        url: of the worker face.
    """

    def __init__(self, number: int, desk: Desk, crew: Crew, options: Options, url: str) -> None:
        self._number, self._desk, self._crew = number, desk, crew
        self._url, self._endpoint_id, self._grace_s = url, options.endpoint_id, options.grace_s
        self._member: Member | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        crew.wanted += 1
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Let the running job finish within the grace, then end the worker."""
        self._stopping.set()
        if self._member:
            self._member.dismiss("the endpoint is being stopped")
            self._desk.changed.give()
        await self._task

    def hurry(self) -> None:
        """End the grace."""
        self._hurry.set()

    async def _keep(self) -> None:
        shortest, longest = BACK_OFF_S
        wait_s = shortest
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                replaced = await self._live()
            except OSError as error:
                log.error("worker %d could not be started: %s", self._number, error)
                replaced = False
            wait_s = shortest if replaced or time.monotonic() - started > STEADY_S else min(2 * wait_s, longest)
            if not replaced and not self._stopping.is_set():
                log.warning("worker %d is started again in %.1f s", self._number, wait_s)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait_s)

    async def _live(self) -> bool:
        """One process, from its start to its end; whether it ended because it was to be replaced."""
        member = self._member = self._crew.enlist(self._number)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-ES", str(GUARD), *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=2,  # standard output is for what the endpoint itself says
            env=worker_environment(os.environ, member, self._url, self._endpoint_id),
            cwd=REPO_ROOT,
            start_new_session=True,
        )  # fmt: skip
        log.info("%s started (process %d)", member.id, process.pid)
        ended = asyncio.create_task(process.wait())
        leaving = asyncio.create_task(member.must_go.wait())
        await asyncio.wait({ended, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not ended.done():
            await self._end(process, ended)
        _kill_group(process.pid)
        how = _how(ended.result())
        log.info("%s ended (%s)%s", member.id, how, f": {member.why}" if member.why else "")
        self._crew.discharge(member)
        self._desk.lose(member.id, f"{member.id} ended ({member.why or how})")
        return member.must_go.is_set()

    async def _end(self, process: Process, ended: asyncio.Task[int]) -> None:
        """Ask, wait, kill, wait."""
        process.terminate()
        hurry = asyncio.create_task(self._hurry.wait())
        grace_s = self._grace_s if self._stopping.is_set() else REPLACE_GRACE_S
        await asyncio.wait({ended, hurry}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        assert process.stdin
        process.stdin.close()  # the guard kills all that is left
        await asyncio.wait({ended}, timeout=KILL_GRACE_S)
        if not ended.done():
            _kill_group(process.pid)
            await ended


def _kill_group(pid: int) -> None:
    """End what may be left of a guard that was itself killed."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _how(status: int) -> str:
    number = -status if status < 0 else status - 128
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"exit code {status}"
