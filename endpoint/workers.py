"""The worker processes as the worker face knows them: who may ask, who is on the way out, what each must stop."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

from endpoint import auth

STOP_AGAIN_S = 1.0  # the SDK drops a stop for a job that it has taken but not begun, so it is told again
STOP_GRACE_S = 60.0  # past this a worker that was told to stop a job hangs; a sampler's slowest step takes less


class Member:
    """One worker process, from its start to its end; another start is another member with another secret."""

    def __init__(self, number: int, clock: Callable[[], float]) -> None:
        self.id = f"worker{number}-{secrets.token_hex(4)}"
        self.secret = secrets.token_urlsafe(32)
        self.is_leaving = False
        self.has_asked = False
        """It has asked for a job: the SDK's loop runs."""
        self.must_go = asyncio.Event()
        self.why = ""
        self._clock = clock
        self._stopping: dict[str, tuple[float, float]] = {}

    def dismiss(self, why: str) -> None:
        """Have it replaced; its supervisor does so."""
        self.is_leaving, self.why = True, self.why or why
        self.must_go.set()

    def stop_job(self, job_id: str) -> None:
        """Tell it to stop a job until it has."""
        now = self._clock()
        self._stopping.setdefault(job_id, (now, now))

    def jobs_to_stop(self) -> list[str]:
        """Those to be told now."""
        now = self._clock()
        due = [job_id for job_id, (_, next_time) in self._stopping.items() if now >= next_time]
        for job_id in due:
            self._stopping[job_id] = (self._stopping[job_id][0], now + STOP_AGAIN_S)
        return due

    def is_idle(self) -> None:
        """It says that it runs nothing."""
        self._stopping.clear()

    def hangs(self) -> bool:
        """Whether it goes on with a job long after it was told to stop."""
        return any(self._clock() - since > STOP_GRACE_S for since, _ in self._stopping.values())


class Crew:
    """The members there are now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._members: dict[str, Member] = {}
        self.takes_jobs = asyncio.Event()
        """A worker has asked for a job."""
        self.wanted = 0
        """How many there should be; those missing are starting, or wait to be started again."""

    def enlist(self, number: int) -> Member:
        """Let a new process in."""
        member = Member(number, self._clock)
        self._members[member.id] = member
        return member

    def discharge(self, member: Member) -> None:
        """Let it in no more."""
        self._members.pop(member.id, None)

    def find(self, worker_id: str, secret: str) -> Member | None:
        """The member that this is, if the secret is its own."""
        member = self._members.get(worker_id)
        return member if member and auth.same(secret, member.secret) else None

    def asked(self, member: Member) -> None:
        """It asked for a job, which is when it is there."""
        member.has_asked = True
        self.takes_jobs.set()

    def stop_job(self, worker_id: str, job_id: str) -> None:
        """Tell whoever runs it, if they still live."""
        if member := self._members.get(worker_id):
            member.stop_job(job_id)

    def dismiss_hanging(self) -> None:
        """Have those replaced that do not stop."""
        for member in self._members.values():
            if not member.is_leaving and member.hangs():
                member.dismiss(f"it went on for {STOP_GRACE_S:g} s with a job it was told to stop")

    def in_state(self, busy: set[str]) -> dict[str, int]:
        """The numbers of /health, given the workers that run a job."""
        present = [member for member in self._members.values() if member.has_asked and not member.is_leaving]
        running = sum(member.id in busy for member in present)
        initializing = sum(not member.has_asked for member in self._members.values())
        return {
            "idle": len(present) - running,
            "initializing": initializing,
            "ready": len(present) - running,
            "running": running,
            "throttled": 0,
            "unhealthy": max(0, self.wanted - len(self._members)),
        }
