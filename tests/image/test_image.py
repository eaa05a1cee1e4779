"""The image, built and run as RunPod would: `make test-image` (root, some minutes; nothing else runs it).

The engine inside is the simulator; with TEST_IMAGE=NAME the same tests run against an image that buildah already has,
such as one with the real ComfyUI.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
from pathlib import Path

import pytest
import requests

from tests.image.building import commit_all
from tests.image.conftest import WANTED
from tests.support.prompts import image_prompt, node
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(not WANTED, reason="`make test-image` runs these (root, some minutes)"),
    pytest.mark.timeout(1800),
]

log = logging.getLogger(__name__)

CODE_LAYERS_LIMIT = 5 * 2**20
STALL = {"SIMULATOR_MISBEHAVE": json.dumps({"stall": {"s": 2, "class": "ImageInvert", "count": 1}})}


def slow_prompt(color: int = 7) -> dict:
    """Seconds of work: the simulator is told to stall in ImageInvert, a real ComfyUI has a lot to compress."""
    side = 64 if WANTED == "1" else 6144
    return {
        "1": node("EmptyImage", width=side, height=side, batch_size=1, color=color),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("SaveImage", images=["2", 0], filename_prefix="slow"),
    }


def png_of(status: dict) -> bytes:
    assert status["status"] == "COMPLETED", status
    (image,) = status["output"]["images"]
    return base64.b64decode(image["b64"])


# ---------------------------------------------------------------- as RunPod runs it


def test_a_job_is_taken_and_its_png_delivered(platform, start):
    container = start()
    assert png_of(platform.run({"prompt": image_prompt()}, timeout_s=300)).startswith(b"\x89PNG")
    flags = Path(f"/proc/{container.comfyui()}/cmdline").read_text().split("\0")
    assert "--disable-api-nodes" in flags
    assert "tcmalloc" in Path(f"/proc/{container.comfyui()}/maps").read_text()


def test_sigterm_during_a_job_delivers_it_and_leaves_no_process(platform, start):
    container = start(**STALL)
    platform.run({"prompt": image_prompt()}, timeout_s=300)
    job = platform.submit({"prompt": slow_prompt()})
    wait_until(lambda: container.log.count("got prompt") == 2)
    assert len(container.pids()) >= 4  # tini, the handler, the SDK's ping, ComfyUI
    os.kill(container.tini(), signal.SIGTERM)
    assert container.process.wait(120) == 0
    assert platform.status(job)["status"] == "COMPLETED"
    assert container.pids() == []


def test_a_comfyui_killed_with_9_is_started_again(platform, start):
    container = start()
    platform.run({"prompt": image_prompt(1)}, timeout_s=300)
    first = container.comfyui()
    os.kill(first, signal.SIGKILL)
    assert platform.run({"prompt": image_prompt(2)}, timeout_s=300)["status"] == "COMPLETED"
    assert container.comfyui() != first


def test_a_handler_killed_with_9_ends_the_container(platform, start):
    container = start(pid_namespace=True)
    platform.run({"prompt": image_prompt()}, timeout_s=300)
    os.kill(container.handler(), signal.SIGKILL)
    assert container.process.wait(10) != 0
    assert container.pids() == []


def test_the_healthcheck_tells_a_comfyui_that_answers_from_one_that_does_not(image, platform, start):
    container = start(pid_namespace=True)
    platform.run({"prompt": image_prompt()}, timeout_s=300)
    storage, name = image
    check = storage.config(name)["Healthcheck"]["Test"][1:]
    assert container.execute(*check).returncode == 0
    os.kill(container.comfyui(), signal.SIGSTOP)
    stuck = container.execute(*check)
    assert stuck.returncode == 1
    assert "does not answer" in stuck.stderr


def test_every_model_folder_of_the_network_volume_is_found(platform, start, tmp_path):
    folders = ("checkpoints", "diffusion_models", "unet", "text_encoders", "clip", "model_patches", "loras", "vae")
    for folder in folders:
        (tmp_path / "volume" / "models" / folder).mkdir(parents=True)
        (tmp_path / "volume" / "models" / folder / f"{folder}.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    container = start(volumes={tmp_path / "volume": "/runpod-volume"})
    platform.run({"prompt": image_prompt()}, timeout_s=300)
    config = container.option(container.comfyui(), "--extra-model-paths-config")
    mapped = (Path(f"/proc/{container.comfyui()}/root") / config.lstrip("/")).read_text()
    assert all(f"{folder}/\n" in mapped for folder in folders)
    port = container.option(container.comfyui(), "--port")
    listed = []
    for folder in set(folders) - {"unet", "clip"}:  # these two are old names of two of the others
        listed += requests.get(f"http://127.0.0.1:{port}/models/{folder}", timeout=10).json()
    assert set(listed) >= {f"{folder}.safetensors" for folder in folders}


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("echo 'Unable to determine the device handle for GPU0: Unknown Error'; exit 15", "Unable to determine"),
        ("echo 'No devices were found'", "No devices were found"),
        ("sleep 60", "nothing within 1 s"),
    ],
)
def test_a_gpu_that_does_not_answer_ends_the_start_at_once(start, tmp_path, program, said):
    fake = tmp_path / "bin" / "nvidia-smi"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    path = "/fake:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env = {"PATH": path, "COMFYUI_ARGS": "", "RUNPOD_SKIP_GPU_CHECK": "", "GPU_CHECK_TIMEOUT_S": "1"}
    container = start(volumes={fake.parent: "/fake"}, **env)
    assert container.process.wait(10) == 1
    assert "the GPU does not answer" in container.log
    assert said in container.log
    assert container.pids() == []


def test_a_gpu_that_answers_is_no_obstacle(platform, start, tmp_path):
    fake = tmp_path / "bin" / "nvidia-smi"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'WARNING: something'; echo 'GPU 0: NVIDIA Test (UUID: GPU-0)'\n")
    fake.chmod(0o755)
    path = "/fake:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    # --cpu is spelled so that start.sh, which looks for the word, does not see it: the GPU is asked for
    env = {"PATH": path, "COMFYUI_ARGS": "'--cpu'", "RUNPOD_SKIP_GPU_CHECK": ""}
    start(volumes={fake.parent: "/fake"}, RUNPOD_SKIP_AUTO_SYSTEM_CHECKS="true", **env)
    assert platform.run({"prompt": image_prompt()}, timeout_s=300)["status"] == "COMPLETED"


# ---------------------------------------------------------------- as it is built


def test_a_changed_line_of_code_reuses_every_layer_below_the_code(images):
    context = images.changed_context("one-line")
    handler = context / "handler.py"
    handler.write_text(handler.read_text() + "# one line more\n")
    (context / ".env").write_text("CIVITAI_TOKEN=not-for-the-image\n")
    built = images.build(context, f"{images.tag}:one-line")
    assert built.returncode == 0, built.stdout[-4000:]
    before, after = images.storage.layers(images.tag), images.storage.layers(f"{images.tag}:one-line")
    shared = sum(1 for old, new in zip(before, after, strict=True) if old == new)
    changed = [images.storage.layer_bytes(digest) for digest in after[shared:]]
    log.info("%d of %d layers are re-used, the others have %s bytes", shared, len(after), changed)
    assert built.stdout.index("COPY pyproject.toml") < built.stdout.rindex("Using cache")
    assert "uv pip" not in built.stdout.partition("COPY start.sh")[2]
    assert 0 < len(changed) <= 3
    assert sum(changed) < CODE_LAYERS_LIMIT


def test_nothing_secret_or_unneeded_is_in_the_image(images):
    storage, image = images.storage, images.tag
    container = storage.buildah("from", image)
    try:
        listing = storage.buildah("run", container, "--", "find", "/app", "/build", "/comfyui", "-name", ".*")
        assert listing.split() == ["/comfyui/.commit"]
        handler = storage.buildah("run", container, "--", "cat", "/opt/venvs/handler/installed.txt")
        assert "runpod==1." in handler
        assert "torch" not in handler
        assert storage.buildah("run", container, "--", "find", "/app", "-name", "handler.*.pyc")
    finally:
        storage.buildah("rm", container)
    names = [setting.partition("=")[0] for setting in storage.config(image)["Env"]]
    assert not [name for name in names if "TOKEN" in name or "KEY" in name or "SECRET" in name]


NODE = "class Hello:\n    pass\n\n\nNODE_CLASS_MAPPINGS = {'Hello': Hello}\n"


@pytest.mark.parametrize(
    ("name", "code", "commit", "says"),
    [
        ("unpinned", NODE, "main", "is not pinned ('main')"),
        ("unknown", NODE, "0" * 40, "cannot be reached"),
        ("broken", "import no_such_package\n", None, "cannot be imported"),
    ],
)
def test_a_custom_node_that_fails_fails_the_build(images, name, code, commit, says):
    built, _ = build_with_node(images, f"{name}-node", code, commit)
    assert built.returncode != 0
    assert says in built.stdout


def test_a_custom_node_and_its_requirements_are_in_the_image(images):
    built, tag = build_with_node(images, "good-node", f"import pyfiglet\n\n\n{NODE}", None, "pyfiglet==1.0.2\n")
    assert built.returncode == 0, built.stdout[-4000:]
    container = images.storage.buildah("from", tag)
    try:
        installed = images.storage.buildah("run", container, "--", "cat", "/opt/venvs/comfyui/installed.txt")
        assert "pyfiglet==1.0.2" in installed
        images.storage.buildah("run", container, "--", "test", "-f", "/comfyui/custom_nodes/hello/__init__.py")
    finally:
        images.storage.buildah("rm", container)


def build_with_node(images, name: str, code: str, commit: str | None, requirements: str = ""):
    """Build with one custom node in the list, whose repository is made here."""
    repository = images.engine.parent / f"{name}-repository"
    repository.mkdir()
    (repository / "__init__.py").write_text(code)
    if requirements:
        (repository / "requirements.txt").write_text(requirements)
    actual = commit_all(repository)
    context = images.changed_context(name)
    (context / "custom_nodes.txt").write_text(f"# ours\n\n{repository} {commit or actual} hello\n")
    tag = f"{images.tag}:{name}"
    return images.build(context, tag), tag
