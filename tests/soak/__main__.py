"""``python -m tests.soak``: the soak as a command. Exits 1 when anything was wrong; its seed repeats it."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from tests.soak.ledger import Ledger
from tests.soak.report import summary
from tests.soak.soak import Soak

SAY_EVERY_S = 15.0


def main() -> int:
    """Run it, print the summary."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the load lasts (%(default)g)")
    parser.add_argument("--seed", type=int, help="decides jobs and kills; a new one each time")
    parser.add_argument("--workers", type=int, default=3, help="how many share the models folder (%(default)s)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    base = Path(tempfile.mkdtemp(prefix="soak-"))
    seconds = options.minutes * 60
    say(f"soak: seed {seed}, {options.workers} workers, {options.minutes:g} minutes; everything is in {base}")
    with _Shown(seconds) as shown:
        result = Soak(base, seconds=seconds, seed=seed, workers=options.workers, say=shown).run()
    say(summary(result))
    if not result.violations:
        shutil.rmtree(base)
        return 0
    say(f"the endpoint's log is {base / 'endpoint.log'}; --seed {seed} sends the same jobs again")
    return 1


def say(text: str) -> None:
    """Print, at once also into a file."""
    print(text, flush=True)  # noqa: T201 - it is a command


class _Shown:
    """A bar on a terminal, a line now and then in a log."""

    def __init__(self, seconds: float) -> None:
        self._bar = tqdm(total=round(seconds), unit="s", disable=not sys.stderr.isatty())
        self._seconds, self._said = seconds, time.monotonic()

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, over: float, ledger: Ledger) -> None:
        text = f"{len(ledger.endings)} jobs, {len(ledger.kills)} kills, {len(ledger.removals)} files pruned"
        self._bar.n = round(over * self._seconds)
        self._bar.set_postfix_str(text)
        if self._bar.disable and time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            say(f"{over:4.0%}  {text}")


if __name__ == "__main__":
    sys.exit(main())
