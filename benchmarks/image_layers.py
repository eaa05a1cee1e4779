"""What a change of our code makes of the image anew: the layers from our first COPY on, by size, without a build.

The Dockerfile is read for the order of its steps; the files that its last steps copy and compile are packed as a layer
would be. Beside it, from its own Dockerfile: worker-comfyui's final image copies its models after its code.

    python benchmarks/image_layers.py [--write]
"""

from __future__ import annotations

import compileall
import io
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.report import Goal, over

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MB = 5


def steps(dockerfile: str) -> list[str]:
    """The instructions that make layers, in order, each on one line."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE))
    return [line for line in joined.splitlines() if line.startswith(("COPY", "RUN", "ADD"))]


def after_code(found: list[str]) -> list[str]:
    """The steps that a change of our code runs again."""
    first = next(number for number, step in enumerate(found) if step.startswith("COPY") and "handler.py" in step)
    return found[first:]


def packed_mb(folder: Path) -> float:
    """A gzipped layer of the folder, in MB."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=6) as tar:
        tar.add(folder, ".")
    return len(out.getvalue()) / 1e6


def main() -> None:
    write = report.arguments(__doc__).parse_args().write
    again = after_code(steps((ROOT / "Dockerfile").read_text()))
    installs = [step for step in again if re.search(r"\b(pip|venv-install|install-torch|apt-get)\b", step)]
    with tempfile.TemporaryDirectory() as scratch:
        app = Path(scratch, "app")
        app.mkdir()
        for step in again:
            if step.startswith("COPY"):
                *sources, _ = [word for word in step.split()[1:] if not word.startswith("--")]
                for source in (ROOT / name for name in sources):
                    if source.is_dir():
                        shutil.copytree(source, app / source.name, ignore=shutil.ignore_patterns("__pycache__"))
                    else:
                        shutil.copy(source, app)
        code = packed_mb(app)
        assert compileall.compile_dir(app, quiet=1), "our code does not compile"
        whole = packed_mb(app)
    rows = [
        "| layers made again by a change of our code | MB, packed |",
        "|---|---|",
        f"| ours: the code ({code:.2f}) and its bytecode | {whole:.2f} |",
        "| worker-comfyui (read, not built): its code, then its models, which are copied after it | not measured |",
    ]
    missed = f"{len(installs)} installing steps after the code" if installs else over(whole, LIMIT_MB, "MB")
    goal = Goal(
        "image layers that change with our code", f"< {LIMIT_MB} MB; nothing is installed again",
        f"{whole:.2f} MB in {len(again)} steps, {len(installs)} of which install",
        "worker-comfyui's models are copied after its code (read, not built)", missed,
    )  # fmt: skip
    report.publish("image_layers", "\n".join(rows), [goal], write=write)


if __name__ == "__main__":
    main()
