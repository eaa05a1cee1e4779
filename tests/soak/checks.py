"""What a soak must not show, as pure functions: each answers sentences, one for every violation it finds."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tests.soak.generator import Picture
from tests.soak.ledger import COMFYUI_KILLED, Ending, Kill, Removal

AFTER_KILL_S = 15.0
"""A killed ComfyUI is still felt while the next one starts, on a machine that may be slow."""
NAMESAKE_ID = re.compile(r"\.\d+(?=\.safetensors$)")


def published(name: str) -> str:
    """The name at the site of a file that may have had to take another: ``x.1007.safetensors`` -> ``x.safetensors``."""
    return NAMESAKE_ID.sub("", name)


# --- jobs -----------------------------------------------------------------------------------------------------------


def judge(ending: Ending, kills: Sequence[Kill], drawn: dict[str, str]) -> list[str]:
    """Whether a job ended as it had to, given who was killed meanwhile.

    Args:
        ending: the job.
        kills: of the whole soak.
        drawn: digest of the picture by recipe, filled as jobs are judged.
    """
    wrong = _wrong_end(ending, kills)
    if wrong is None and ending.state == "COMPLETED":
        wrong = _wrong_answer(ending, drawn)
    return [f"job {ending.plan.number} ({ending.job_id}): {wrong}"] if wrong else []


def _wrong_end(ending: Ending, kills: Sequence[Kill]) -> str | None:
    state, code, expected = ending.state, ending.code, ending.plan.error
    if state == "CANCELLED":
        return None if ending.cancelled else "is CANCELLED though nobody cancelled it"
    if state == "COMPLETED":
        return f"is COMPLETED and should have failed with {expected}" if expected else None
    if state != "FAILED":
        return f"ended as {state}"
    if code == expected or _is_excused(ending, kills):
        return None
    return f"FAILED with {ending.status.get('error')!r} where {expected or 'success'} was right"


def _is_excused(ending: Ending, kills: Sequence[Kill]) -> bool:
    """Whether a kill explains the failure: a death it saw, or two workers lost under it."""
    start, end = ending.life
    met = [kill for kill in kills if start - AFTER_KILL_S <= kill.at <= end]
    if ending.code in ("COMFYUI_DIED", "COMFYUI_START_FAILED"):
        return any(kill.what == COMFYUI_KILLED and kill.worker == ending.status.get("workerId") for kill in met)
    return ending.code == "WORKER_LOST" and len(met) >= 2


def _wrong_answer(ending: Ending, drawn: dict[str, str]) -> str | None:
    by_node: dict[str, list[dict[str, Any]]] = {}
    for image in ending.output.get("images", []):
        by_node.setdefault(image["node_id"], []).append(image)
    if by_node.keys() != ending.plan.pictures.keys():
        return f"has pictures of the nodes {sorted(by_node)} where {sorted(ending.plan.pictures)} save one each"
    for node_id, picture in ending.plan.pictures.items():
        wrong = _wrong_picture(by_node[node_id], picture, drawn)
        if wrong:
            return f"node {node_id}: {wrong}"
    if ending.plan.error is None and len(ending.places) != len(ending.plan.lists):
        return f"lists {len(ending.plan.lists)} models and its answer names {ending.places}"
    both = set(ending.places) & set(ending.pruned)
    return f"pruned what it lists: {sorted(both)}" if both else None


def _wrong_picture(images: Sequence[Mapping[str, Any]], expected: Picture, drawn: dict[str, str]) -> str | None:
    if len(images) != 1:
        return f"{len(images)} pictures instead of one"
    with Image.open(io.BytesIO(base64.b64decode(images[0]["b64"]))) as image:
        shown = image.convert("RGB")
    if shown.size != expected.size:
        return f"the picture has {shown.size} pixels instead of {expected.size}"
    if expected.colour:
        colours = shown.getcolors(16)
        shown_colours = [each for _, each in colours or ()]
        return None if shown_colours == [expected.colour] else f"its colours are {shown_colours}, not {expected.colour}"
    if expected.recipe:
        digest = hashlib.sha256(shown.tobytes()).hexdigest()
        if drawn.setdefault(expected.recipe, digest) != digest:
            return f"the picture differs from another of {expected.recipe}"
    return None


# --- models ---------------------------------------------------------------------------------------------------------


def check_downloads(
    downloads: Mapping[str, int],
    removals: Iterable[Removal],
    logged: Mapping[str, int],
    models_of_name: Mapping[str, int],
) -> list[str]:
    """Every model once, and once more for each time that it was deleted.

    Args:
        downloads: finished ones by published name.
        removals: what was seen to vanish from the disk: all but files that came and went between two looks.
        logged: deletions by published name, as the workers' logs tell them: all but one that a kill -9 cut off.
        models_of_name: how many models share a published name.
    """
    gone = Counter(published(removal.place.rpartition("/")[2]) for removal in removals) | Counter(logged)
    return [
        f"{name} was downloaded {count} times and deleted {gone[name]} times"
        for name, count in sorted(downloads.items())
        if count > models_of_name.get(name, 0) + gone[name]
    ]


def check_in_use(endings: Iterable[Ending], removals: Sequence[Removal]) -> list[str]:
    """No listed file vanished while its job's prompt was certainly running."""
    found = []
    for ending in endings:
        in_use = ending.surely_in_use
        if not in_use:
            continue
        start, end = in_use
        found += [
            f"job {ending.plan.number} ({ending.job_id}): {removal.place} was deleted while it ran"
            for removal in removals
            if removal.place in ending.places and start <= removal.seen and removal.missed <= end
        ]
    return found


def check_it_was_one(endings: Iterable[Ending], removals: Sequence[Removal], kills: Sequence[Kill]) -> list[str]:
    """A soak in which nobody is killed, nothing pruned and no model seen in use shows nothing of these."""
    needed = {
        "nobody was killed": kills,
        "nothing was pruned": removals,
        "no job was seen while it used models": [each for each in endings if each.surely_in_use and each.places],
    }
    return [f"{what} in the whole soak" for what, seen in needed.items() if not seen]


def check_left(on_disk: Iterable[str], expected: Iterable[str]) -> list[str]:
    """What is on the disk after the last job: what it lists, and what was there before the soak."""
    have, right = set(on_disk), set(expected)
    problems = [("was left on the disk", have - right), ("is missing after the last job", right - have)]
    return [f"{place} {what}" for what, places in problems for place in sorted(places)]


# --- leaks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One look at one process."""

    at: float
    rss: int
    """Bytes."""
    fds: int
    threads: int


SLACK = {"rss": 24 << 20, "fds": 8, "threads": 4}
"""What a process may have more at the end of its second half than at its beginning: caches fill, pools breathe."""
MIN_SAMPLES = 60
"""In that second half, at one a second: a worker fills its caches and its allocator's arenas in its first minute."""


@dataclass(frozen=True)
class Growth:
    """One quantity of one process over the second half of its life."""

    process: str
    what: str
    before: float
    after: float

    @property
    def is_leak(self) -> bool:
        return self.after - self.before > SLACK[self.what]


def growths(process: str, samples: Sequence[Sample]) -> list[Growth]:
    """The second half of a process's life: its first quarter beside its last; none of a short life.

    Of each the lower quartile counts, which is what the process has while it does little: a leak raises that too.
    """
    half = sorted(samples, key=lambda sample: sample.at)[len(samples) // 2 :]
    if len(half) < MIN_SAMPLES:
        return []
    quarter = len(half) // 4
    found = []
    for what in SLACK:
        values = [getattr(sample, what) for sample in half]
        found.append(Growth(process, what, _low(values[:quarter]), _low(values[-quarter:])))
    return found


def _low(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=4)[0]


def check_growth(all_growths: Iterable[Growth]) -> list[str]:
    """No process that lived long enough grew beyond the slack."""
    return [
        f"{growth.process}: {growth.what} grew from {growth.before:,.0f} to {growth.after:,.0f}"
        for growth in all_growths
        if growth.is_leak
    ]
