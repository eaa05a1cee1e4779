"""Builds the image as `make image` does, where there is neither Docker nor a registry: buildah on a debootstrap base.

The engine inside is the simulator, laid into a git repository like ComfyUI's, so that a build takes a minute and no
torch. Everything is kept under one folder of the system's temporary directory; deleting that starts anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.runpod_platform import REPO_ROOT

CACHE = Path(tempfile.gettempdir()) / "comfy-remote-serverless-image-test"
BASE = "localhost/debian-bookworm"
DEBIAN = ("bookworm", "http://deb.debian.org/debian")
CERTIFICATES = Path("/usr/local/share/ca-certificates")  # of a network with a certificate authority of its own
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

SIMULATOR_MAIN = '''\
"""The simulator under ComfyUI's command line: its folders beside main.py, and the flag that the image's build uses."""

import logging
import runpy
import sys
from pathlib import Path

if "--base-directory" not in sys.argv:
    sys.argv += ["--base-directory", str(Path(__file__).parent)]
if "--quick-test-for-ci" in sys.argv:
    import nodes

    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    nodes.load_custom_nodes()
else:
    runpy.run_module("simulator_main", run_name="__main__")
'''


def missing() -> str | None:
    """Why nothing can be built here, and what to do; None when all is there."""
    if os.geteuid() != 0:
        return "the image test needs root, for debootstrap and chroot: sudo make test-image"
    absent = [name for name in ("buildah", "debootstrap", "git", "unshare") if not shutil.which(name)]
    return f"{', '.join(absent)} missing: apt-get install buildah debootstrap git util-linux" if absent else None


class Storage:
    """Buildah's images, in the test's own folder (or, for an image that is there already, in the machine's)."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.env = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            self.driver = "overlay" if _overlay_works(folder) else "vfs"
            conf = folder / "storage.conf"
            paths = f'graphroot = "{folder / "images"}"\nrunroot = "{folder / "run"}"\n'
            conf.write_text(f'[storage]\ndriver = "{self.driver}"\n{paths}')
            self.env["CONTAINERS_STORAGE_CONF"] = str(conf)

    def buildah(self, *arguments: str) -> str:
        """Run buildah; its output. A failure shows what it said."""
        done = subprocess.run(["buildah", *arguments], env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"buildah {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether there is such an image."""
        command = ["buildah", "inspect", "--type", "image", image]
        return subprocess.run(command, env=self.env, capture_output=True, check=False).returncode == 0

    def config(self, image: str) -> dict:
        """The image's configuration: Entrypoint, Env, Labels, Healthcheck."""
        return json.loads(self.buildah("inspect", "--type", "image", image))["Docker"]["config"]

    def layers(self, image: str) -> list[str]:
        """The digests of its layers, from the base up."""
        return json.loads(self.buildah("inspect", "--type", "image", image))["Docker"]["rootfs"]["diff_ids"]

    def layer_bytes(self, digest: str) -> int:
        """How large a layer is, uncompressed."""
        assert self.folder
        listing = self.folder / "images" / f"{self.driver}-layers" / "layers.json"
        return next(
            layer["diff-size"] for layer in json.loads(listing.read_text()) if layer.get("diff-digest") == digest
        )


def _overlay_works(folder: Path) -> bool:
    parts = {name: folder / "overlay-probe" / name for name in ("lower", "upper", "work", "merged")}
    for part in parts.values():
        part.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"])]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return False
    subprocess.run(["umount", str(parts["merged"])], check=True)
    return True


def make_base(storage: Storage) -> None:
    """A minimal Debian as image, made once; it trusts whom this machine trusts and asks the indexes that it asks."""
    if storage.has(BASE):
        return
    tree = CACHE / "debian"
    shutil.rmtree(tree, ignore_errors=True)
    log = CACHE / "debootstrap.log"
    with log.open("w") as out:
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", DEBIAN[0], str(tree), DEBIAN[1]]
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, f"debootstrap failed:\n{log.read_text()[-2000:]}"
    for certificate in CERTIFICATES.glob("*.crt"):
        shutil.copy(certificate, tree / CERTIFICATES.relative_to("/"))
    # Inside there is no folder of this machine's temporary ones.
    inside = ["chroot", str(tree), "env", "-u", "TMPDIR", "update-ca-certificates"]
    done = subprocess.run(inside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    container = storage.buildah("from", "scratch")
    storage.buildah("add", "--quiet", container, str(tree), "/")
    passed = {name: os.environ[name] for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX") if name in os.environ}
    for name, value in {"SSL_CERT_FILE": BUNDLE, "PIP_CERT": BUNDLE, **passed}.items():
        storage.buildah("config", "--env", f"{name}={value}", container)
    storage.buildah("commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(tree)


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as nobody in particular."""
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit_all(folder: Path) -> str:
    """Make a folder a git repository with one commit; its hash."""
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "test")
    return git(folder, "rev-parse", "HEAD")


def make_engine(folder: Path) -> Path:
    """The simulator as a git repository that looks like ComfyUI's, with a tag to build from."""
    shutil.copytree(REPO_ROOT / "simulator", folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (folder / "main.py").rename(folder / "simulator_main.py")
    (folder / "main.py").write_text(SIMULATOR_MAIN)
    (folder / "requirements.txt").write_text("aiohttp\nPillow\n")
    commit_all(folder)
    git(folder, "tag", engine_ref(folder))
    return folder


def engine_ref(engine: Path) -> str:
    """The tag of an engine: of its content, since a build re-uses the layer of a repository and a ref it has seen."""
    return "v-" + git(engine, "rev-parse", "HEAD^{tree}")[:12]


def copy_context(folder: Path) -> Path:
    """What .dockerignore lets into a build, and the build's own files: the repository may change meanwhile."""
    allowed = (REPO_ROOT / ".dockerignore").read_text().splitlines()
    folder.mkdir(parents=True)
    for name in ["Dockerfile", ".dockerignore", *(line[1:] for line in allowed if line.startswith("!"))]:
        source = REPO_ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy2(source, folder / name)
    return folder


def build(storage: Storage, context: Path, engine: Path, tag: str) -> subprocess.CompletedProcess[str]:
    """`docker/build-image.sh` on that context; what it printed is in `stdout`."""
    arguments = {
        "ENGINE": "buildah",
        "BASE_IMAGE": BASE,
        "TORCH_VERSION": "",
        "COMFYUI_REPO": str(engine),
        "COMFYUI_REF": engine_ref(engine),
        "BUILD_FLAGS": f"--volume {engine.parent}:{engine.parent}:ro",
    }
    return subprocess.run(
        [str(context / "docker" / "build-image.sh"), tag],
        env={**storage.env, **arguments},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
