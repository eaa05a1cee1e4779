"""The time to download five models: ours, verified, beside what people use otherwise, unverified.

    python benchmarks/downloads.py [--size 512] [--reps 4] [--rate 50] [--connections 16] [--write]

Serves random safetensors files from an nginx on loopback, once with a limit per connection (what storage hosts do) and
once without, and prints a markdown table of medians with ratios. Peers that are not installed are left out and named.
Client and server share this machine's cores, so the ratios count and not the numbers. One connection at a time
under the limit takes the same time whoever asks and whenever, so that is measured once, with requests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report
from benchmarks.report import Goal, under
from tests.support.safetensors_files import header_only
from worker.downloads.source import WebModelSource
from worker.settings import Settings
from worker.sites.repo_list import parse_repo_list
from worker.sites.types import Download, ModelFile
from worker.stop import Stop

MiB = 1 << 20
FILES = 5
ONE_CONNECTION = {"requests": 1, "curl": 0, "curl+sha": 0}
"""Runs under the limit."""
PORTS = {"limited": 18181, "unlimited": 18180}
NGINX = """
worker_processes 2; pid {home}/nginx.pid; error_log {home}/error.log warn; daemon on; user {user};
events {{ worker_connections 1024; }}
http {{
  access_log off; default_type application/octet-stream; sendfile on; tcp_nopush on; keepalive_timeout 30;
  client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c;
  uwsgi_temp_path {home}/d; scgi_temp_path {home}/e;
  server {{ listen 127.0.0.1:{unlimited}; root {home}/www; }}
  server {{ listen 127.0.0.1:{limited}; root {home}/www; limit_rate {rate}m; }}
}}
"""


def ours(base: str, into: Path, names: dict[str, str]) -> None:
    host = base.removeprefix("http://")
    environ = {"MODEL_HOSTS": host, "MODELS_DIR": str(into)}
    settings = Settings.from_environ({**environ, "DOWNLOAD_CONNECTIONS": os.environ["BENCH_CONNECTIONS"]})
    downloads = []
    for name, sha256 in names.items():
        (line,) = parse_repo_list(f"ckpt {base}/{name}", hosts=settings.model_hosts)
        file = ModelFile(f"http:{line.url}", "checkpoints", name, line.url, line, sha256=sha256)
        downloads.append(Download(file, into / name))
    done = WebModelSource(settings).fetch(downloads, Stop(), lambda files: None)
    assert {each.path.name: each.sha256 for each in done} == names


def plain_requests(base: str, into: Path, names: dict[str, str]) -> None:
    with requests.Session() as session:
        for name in names:
            with session.get(f"{base}/{name}", stream=True, timeout=60) as response, (into / name).open("wb") as file:
                response.raise_for_status()
                for chunk in response.iter_content(MiB):
                    file.write(chunk)


def curl(base: str, into: Path, names: dict[str, str]) -> None:
    for name in names:
        subprocess.run(["curl", "-sf", "-o", into / name, f"{base}/{name}"], check=True)


def curl_and_sha256sum(base: str, into: Path, names: dict[str, str]) -> None:
    curl(base, into, names)
    subprocess.run(["sha256sum", *(into / name for name in names)], check=True, stdout=subprocess.DEVNULL)


def aria2c(base: str, into: Path, names: dict[str, str], at_once: str = "1", check: bool = False) -> None:
    checks = {name: f"  checksum=sha-256={sha256}\n" if check else "" for name, sha256 in names.items()}
    queue = "".join(f"{base}/{name}\n  out={name}\n{checks[name]}" for name in names)
    split = [f"-j{at_once}", "-x16", "-s16", "-k1M", "--file-allocation=none", "--allow-overwrite=true"]
    subprocess.run(["aria2c", "-q", *split, "-d", into, "-i", "-"], input=queue, text=True, check=True)


def aria2c_80(base: str, into: Path, names: dict[str, str]) -> None:
    aria2c(base, into, names, "5")


def aria2c_checked(base: str, into: Path, names: dict[str, str]) -> None:
    aria2c(base, into, names, check=True)


METHODS: dict[str, tuple[str, Callable[[str, Path, dict[str, str]], None], str | None]] = {
    "ours": ("ours (16 connections), SHA-256 and header checked", ours, None),
    "requests": ("requests, one file after another, unverified", plain_requests, None),
    "curl": ("curl, one file after another, unverified", curl, "curl"),
    "curl+sha": ("curl, one file after another, then sha256sum", curl_and_sha256sum, "curl"),
    "aria2c": ("aria2c -j1 -x16 (16 connections), unverified", aria2c, "aria2c"),
    "aria2c+sha": ("aria2c -j1 -x16 --checksum, SHA-256 checked", aria2c_checked, "aria2c"),
    "aria2c-80": ("aria2c -j5 -x16 (80 connections), unverified", aria2c_80, "aria2c"),
}


def make_files(www: Path, size: int, count: int = FILES) -> dict[str, str]:
    """Make random safetensors files of ``size`` bytes. Return their names with their SHA-256."""
    names = {}
    for number in range(1, count + 1):
        start = header_only({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
        digest = hashlib.sha256(start)
        with (www / f"m{number}.safetensors").open("wb") as file:
            file.write(start)
            for _ in range(size // MiB):
                block = os.urandom(MiB)
                digest.update(block)
                file.write(block)
        names[f"m{number}.safetensors"] = digest.hexdigest()
    return names


@contextmanager
def nginx(home: Path, rate: int) -> Iterator[None]:
    config = home / "nginx.conf"
    user = "root" if os.geteuid() == 0 else "nobody"
    config.write_text(NGINX.format(home=home, rate=rate, user=user, **PORTS))
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    subprocess.run([binary, "-c", config, "-p", home], check=True)
    try:
        yield
    finally:
        subprocess.run([binary, "-c", config, "-p", home, "-s", "stop"], check=True)


def once(method: str, base: str, into: Path, names: dict[str, str], connections: int) -> dict[str, float]:
    """Run a method once, in a process of its own. Return its seconds, and its CPU seconds with its children's."""
    for path in into.iterdir():
        path.unlink()
    argv = [sys.executable, __file__, "--child", method, base, str(into), json.dumps(names)]
    environ = {**os.environ, "BENCH_CONNECTIONS": str(connections)}
    ran = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, env=environ)
    sizes = {path.name: path.stat().st_size for path in into.iterdir()}
    assert sorted(sizes) == sorted(names), sizes
    result: dict[str, float] = json.loads(ran.stdout)
    return result


def child(method: str, base: str, into: str, names: str) -> None:
    started, before = time.perf_counter(), os.times()
    METHODS[method][1](base, Path(into), json.loads(names))
    seconds, after = time.perf_counter() - started, os.times()
    print(json.dumps({"seconds": seconds, "cpu": sum(after[:4]) - sum(before[:4])}))


def table(runs: dict[str, list[dict[str, float]]], total: int) -> str:
    rows = ["| | median s | MB/s | times ours | client CPU s/GiB |", "|---|---|---|---|---|"]
    medians = {method: statistics.median(run["seconds"] for run in each) for method, each in runs.items() if each}
    for method, seconds in sorted(medians.items(), key=lambda pair: pair[1]):
        cpu = statistics.median(run["cpu"] for run in runs[method]) / (total / 1024 / MiB)
        ratio = seconds / medians["ours"]
        speed = total / 1e6 / seconds
        rows.append(f"| {METHODS[method][0]} | {seconds:.2f} | {speed:.0f} | {ratio:.2f} | {cpu:.2f} |")
    return "\n".join(rows)


def version(command: str) -> str:
    flag = "-v" if command == "nginx" else "--version"
    printed = subprocess.run([command, flag], capture_output=True, text=True, check=False)
    return " ".join((printed.stdout or printed.stderr).splitlines()[0].split()[:3])


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--size", type=int, default=512, help="MiB of each of the five files")
    parser.add_argument("--reps", type=int, default=4)
    parser.add_argument("--rate", type=int, default=50, help="MiB/s of each connection in the limited round")
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    need_nginx()
    methods = [name for name, (_, _, command) in METHODS.items() if command is None or shutil.which(command)]
    with served(options.size * MiB, FILES, options.rate) as (names, into):
        text, goals = measure(methods, names, into, options)
    report.publish("downloads", text, goals, write=options.write)


def need_nginx() -> None:
    if not (shutil.which("nginx") or Path("/usr/sbin/nginx").exists()):
        raise SystemExit("nginx is needed as the server: apt-get install nginx-light")


@contextmanager
def served(size: int, count: int, rate: int) -> Iterator[tuple[dict[str, str], Path]]:
    """Run an nginx with so many files. Yield their names with SHA-256, and a folder in memory to download them to."""
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="bench-www-") as home, tempfile.TemporaryDirectory(dir=memory) as into:
        www = Path(home) / "www"
        www.mkdir()
        Path(home).chmod(0o755)
        names = make_files(www, size, count)
        with nginx(Path(home), rate):
            yield names, Path(into)


def measure(
    methods: list[str], names: dict[str, str], into: Path, options: argparse.Namespace
) -> tuple[str, list[Goal]]:
    total = FILES * options.size * MiB
    peers = ", ".join(version(name) for name in ("curl", "aria2c", "nginx") if shutil.which(name))
    missing = {str(METHODS[name][2]) for name in METHODS.keys() - set(methods)}
    parts = [
        f"{FILES} files of {options.size} MiB to memory, {options.reps} runs each in random order (one connection "
        f"under the limit: one run), ours with {options.connections} connections; requests {requests.__version__}, "
        f"{peers}."
    ]
    parts += [f"{name} is not installed: left out." for name in missing]
    goals = []
    for server, port in PORTS.items():
        runs: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
        for rep in range(options.reps):
            for method in random.sample(methods, len(methods)):
                if server == "unlimited" or rep < ONE_CONNECTION.get(method, options.reps):
                    base = f"http://127.0.0.1:{port}"
                    runs[method].append(once(method, base, into, names, options.connections))
        limit = f"{options.rate} MiB/s a connection" if server == "limited" else "no limit"
        parts.append(f"**{limit}**\n\n{table(runs, total)}")
        print(parts[-1], flush=True)
        goals += [goal(server, runs)] if PEERS[server] in runs else []
    return "\n\n".join(parts), goals


PEERS = {"limited": "aria2c", "unlimited": "requests"}
TARGETS = {"limited": 0.95, "unlimited": 0.8}


def goal(server: str, runs: dict[str, list[dict[str, float]]]) -> Goal:
    """Return the goal: our speed over the peer's, the median over the rounds, in each of which both ran."""

    def of(peer: str) -> float:
        pairs = zip(runs[peer], runs["ours"], strict=True)
        return statistics.median(peers["seconds"] / ours["seconds"] for peers, ours in pairs)

    ratio = of(PEERS[server])
    checked = f"; {of('aria2c+sha'):.2f} of aria2c's that checks SHA-256 as well" if "aria2c+sha" in runs else ""
    what = "each connection limited" if server == "limited" else "no limit"
    named = METHODS[PEERS[server]][0]
    return Goal(
        f"download of 5 files, verified, {what}", f">= {TARGETS[server]} of {named}",
        f"{statistics.median(run['seconds'] for run in runs['ours']):.2f} s", f"{ratio:.2f} of its speed{checked}",
        under(ratio, TARGETS[server]),
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
