# The worker as an image: ComfyUI in one virtual environment, RunPod's SDK and our code in another. Nothing is installed
# when a container starts. The layers that change least come first: a change of our code rebuilds only the last few
# kilobytes.
#
#   make image                                       uses docker, podman or buildah, the first that is installed
#   docker build -t comfy-remote-serverless .        the same by hand
#
# The base may be any Debian or Ubuntu with Python 3.10 to 3.13: --build-arg BASE_IMAGE=debian:bookworm-slim
ARG BASE_IMAGE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04
FROM ${BASE_IMAGE}

# --- The distribution's packages. setpriv (util-linux) kills ComfyUI if the handler is killed; tini is PID 1; tcmalloc
# returns the memory of unloaded models to the system; OpenCV in custom nodes needs libgl1 and libglib2.0-0; git fetches
# ComfyUI, and several node packs run it. Their versions are not pinned, because distributions delete old ones; the base
# image decides them.
ARG PYTHON=python3
ARG EXTRA_APT_PACKAGES=""
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      ca-certificates git "${PYTHON}" "${PYTHON}-venv" tini util-linux \
      libgl1 libglib2.0-0 libtcmalloc-minimal4 ${EXTRA_APT_PACKAGES} \
 && rm -rf /var/lib/apt/lists/*

# --- uv, from PyPI so that no second registry is needed.
ARG UV_VERSION=0.13.9
RUN "${PYTHON}" -m venv /opt/uv \
 && /opt/uv/bin/pip install --no-cache-dir "uv==${UV_VERSION}"

# --- torch has a layer of its own, and it comes first: gigabytes that change once in months. An empty TORCH_INDEX_URL
# means PyPI, an empty TORCH_VERSION leaves torch out (for an engine that needs none). Later layers cannot change the
# versions installed here: a custom node that requires another torch fails the build instead of replacing it.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cu128
ARG TORCH_VERSION=2.11.0+cu128
COPY docker/venv-install.sh docker/install-torch.sh /build/
RUN /build/install-torch.sh "${TORCH_VERSION}" "${TORCH_INDEX_URL}"

# --- ComfyUI and its requirements. Packages are those that PyPI had on the day PACKAGES_AS_OF, so that the same Dockerfile
# gives the same image next month; empty means today. ComfyUI imports requests, but not all of its versions list it.
ARG PACKAGES_AS_OF=2026-11-20
ARG COMFYUI_REPO=https://github.com/comfyanonymous/ComfyUI
ARG COMFYUI_REF=v0.29.0
COPY docker/checkout.sh /build/
RUN /build/checkout.sh "${COMFYUI_REPO}" "${COMFYUI_REF}" /comfyui \
 && UV_EXCLUDE_NEWER="${PACKAGES_AS_OF}" /build/venv-install.sh comfyui --requirement /comfyui/requirements.txt requests

# --- Custom nodes, each pinned by commit. At the end ComfyUI is started once: a node that cannot be loaded fails the build
# here, not the jobs later.
COPY custom_nodes.txt docker/install-nodes.sh /build/
RUN UV_EXCLUDE_NEWER="${PACKAGES_AS_OF}" /build/install-nodes.sh /build/custom_nodes.txt

# --- The handler's own environment, without torch: the SDK's fitness checks would import torch and hold a CUDA context.
COPY pyproject.toml /build/
RUN UV_EXCLUDE_NEWER="${PACKAGES_AS_OF}" /build/venv-install.sh handler --requirement /build/pyproject.toml \
 && /opt/uv/bin/uv pip check --python /opt/venvs/handler/bin/python

# --- Our code, last. Importing it tests that the layers fit together.
WORKDIR /app
ENV COMFYUI_PATH=/comfyui \
    COMFYUI_PYTHON=/opt/venvs/comfyui/bin/python \
    HANDLER_PYTHON=/opt/venvs/handler/bin/python \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY start.sh handler.py comfy_runner.py model_manager.py test_input.json docker/healthcheck.py /app/
COPY worker/ /app/worker/
RUN "${HANDLER_PYTHON}" -m compileall -q /app \
 && "${HANDLER_PYTHON}" -c 'import handler, runpod'

# Docker and compose run this check, RunPod does not. ComfyUI's event loop answers it also while a prompt runs.
HEALTHCHECK --interval=30s --timeout=15s --start-period=5m --retries=4 \
  CMD ["/opt/venvs/handler/bin/python", "-I", "-S", "/app/healthcheck.py"]

# tini as PID 1 passes SIGTERM to the handler and ends the container when the handler ends. Without `-g`: the SDK's ping
# process is in the handler's group, and must run until the handler has delivered its current job.
ENTRYPOINT ["/usr/bin/tini", "--", "/app/start.sh"]

ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE_URL=""
LABEL org.opencontainers.image.title="comfy-remote-serverless" \
      org.opencontainers.image.description="RunPod serverless worker: headless ComfyUI that fetches each job's models" \
      org.opencontainers.image.licenses="MIT AND GPL-3.0-only" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE_URL}" \
      comfyui.ref="${COMFYUI_REF}"
