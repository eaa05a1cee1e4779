"""One fault made to happen: its job is timed, its end held against the catalogue, and what was seen is written down."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.assembled.catalogue import RIGHT, Fault
from tests.faults.assembled.sights import Sight, asked_of_comfyui, changes, conversation
from tests.faults.assembled.subject import Answer, Subject, picture, shows

MESSAGE_CHARACTERS = 160


@dataclass
class Row:
    """What the table says of a fault; every cell comes from a run."""

    seen: str = ""
    answer: str = ""
    seconds: float = 0.0
    disk: str = ""
    next_seconds: float | None = None
    test: str = ""
    path: str = ""


@dataclass
class Case:
    """A test's hand on its fault. A test is only done once it has both an end that was seen and a next job."""

    fault: Fault
    row: Row = field(default_factory=Row)

    def runs(
        self,
        worker: Subject,
        *,
        brings: dict[str, bytes] | None = None,
        before: Sight | None = None,
        **fields: Any,
    ) -> Answer:
        """Run the job that meets the fault, with these fields of ``input``, and the next one; as :meth:`meets`."""
        answer = self.meets(worker, fields, brings=brings, before=before)
        self.next_job(worker)
        return answer

    def meets(
        self,
        worker: Subject,
        fields: Any,
        *,
        brings: dict[str, bytes] | None = None,
        before: Sight | None = None,
        seen: Callable[[], str] = str,
        **event: Any,
    ) -> Answer:
        """Run the job that meets the fault.

        Args:
            worker: which meets it.
            fields: the job's ``input``, whatever it is.
            brings: the files that must be there afterwards, below the models folder.
            before: a look at the worker before the fault, when that comes before the job.
            seen: what else was seen of the fault; called after the answer.
            event: what goes beside ``input``.
        """
        before = before or worker.look()
        started = time.monotonic()
        answer = worker.answer(fields, **event)
        self.saw(worker, before, answer, time.monotonic() - started, brings=brings, seen=seen())
        if self.fault.must == RIGHT and (color := _color(fields)) is not None:
            assert shows(answer, color)
        return answer

    def saw(
        self,
        worker: Subject,
        before: Sight,
        answer: Answer,
        seconds: float,
        *,
        brings: dict[str, bytes] | None = None,
        seen: str = "",
    ) -> None:
        """Hold the end of the fault's job against the catalogue.

        Args:
            worker: which met it.
            before: a look at the worker before the job.
            answer: the job's.
            seconds: from its start to the answer.
            brings: the files that must be there now, below the models folder.
            seen: what else was seen of the fault.
        """
        after = worker.look()
        self._check_answer(worker, answer)
        if after.generation == before.generation:
            assert worker.unspent() == [], "the fault did not happen"
        self._check_disk(worker, before, after, answer, brings or {})
        assert worker.parts() == []
        told = "; ".join(filter(None, [seen, _seen(worker, before, after)]))
        self.note(outcome(answer), _told(answer), seconds, seen=told, disk=changes(before.files, after.files))

    def note(self, end: str, answer: str, seconds: float, *, seen: str, disk: str) -> None:
        """Hold an end, in the catalogue's words, and its time against the catalogue; write down what was seen."""
        assert end == self.fault.must, answer
        assert seconds <= self.fault.within_s
        self.row.answer, self.row.seconds, self.row.seen, self.row.disk = answer, seconds, seen, disk

    def next_job(self, worker: Subject) -> None:
        """The fault is over; show that the worker works."""
        worker.heal()
        self.worked(worker.next_job())

    def worked(self, seconds: float) -> None:
        """A next job gave what it should, in so many seconds."""
        self.row.next_seconds = seconds

    def check_done(self) -> None:
        """Fail a test that showed less than the table says."""
        assert self.row.answer, f"nothing was seen of {self.fault.id}: call case.runs(), meets(), saw() or note()"
        assert self.row.next_seconds is not None, "no next job was run: call case.next_job() or worked()"

    def _check_answer(self, worker: Subject, answer: Answer) -> None:
        assert outcome(answer) == self.fault.must, answer  # before anything else is made of it
        sent = json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()  # as the SDK will
        assert not [secret for secret in worker.secrets if secret.encode() in sent]
        if self.fault.must == RIGHT:
            picture(answer)
        elif "error" in answer:
            assert str(worker.folder) not in answer["error"]

    def _check_disk(
        self, worker: Subject, before: Sight, after: Sight, answer: Answer, brings: dict[str, bytes]
    ) -> None:
        pruned = {f"models/{each['folder']}/{each['name']}" for each in answer.get("models", {}).get("pruned", [])}
        changed = {name for name, stamp in before.files.items() if after.files.get(name) != stamp}
        assert {name for name in changed if not name.endswith(".part")} <= pruned, (
            "something that was there before is lost"
        )
        for name, data in brings.items():
            assert (worker.models / name).read_bytes() == data
        if self.fault.must != RIGHT:
            assert [name for name in after.files if name not in before.files and not name.startswith("input/")] == []


def _color(fields: Any) -> int | None:
    """What the one picture of ``image_prompt`` is to show; None for another prompt."""
    node = fields["prompt"].get("1", {})
    return node["inputs"]["color"] if node.get("class_type") == "EmptyImage" else None


def outcome(answer: Answer) -> str:
    """An answer in the catalogue's words."""
    return str(answer.get("error_code") or answer.get("status") or RIGHT)


def _told(answer: Answer) -> str:
    if "error" in answer:
        code, _, message = answer["error"].partition(": ")
        message = re.sub(r"(127\.0\.0\.1|localhost):\d+", r"\1", re.sub(r"\(`\w+ https://\S+`\)", "(…)", message))
        head = message if len(message) <= MESSAGE_CHARACTERS else message[:MESSAGE_CHARACTERS].rstrip() + "…"
        return f"`{code}`: {head}"
    if "status" in answer:
        return str(answer["status"])
    image = picture(answer)
    return f"right: a picture of {image.width} x {image.height}"


def _seen(worker: Subject, before: Sight, after: Sight) -> str:
    happened = ", ".join(f"`{name}`" for name in worker.faults)
    told = [
        f"{happened} happened" if happened else "",
        asked_of_comfyui(before, after),
        conversation(worker.civitai.requests[before.asked :]),
    ]
    return "; ".join(filter(None, told))
