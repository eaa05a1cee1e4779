#!/usr/bin/env bash
# usage: build-image.sh [TAG]
# Build the image with docker, podman or buildah, the first that is installed (ENGINE chooses one). An environment
# variable with the name of one of the Dockerfile's ARGs overrides its default; BUILD_FLAGS are passed to the engine.
#
#   BASE_IMAGE=debian:bookworm-slim docker/build-image.sh
#   COMFYUI_REPO=/home/me/ComfyUI COMFYUI_REF=my-branch docker/build-image.sh        (podman and buildah only)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tag="${1:-comfy-remote-serverless:latest}"

refuse() {
  echo "build-image.sh: $1" >&2
  exit 1
}

find_engine() {
  local candidate
  for candidate in ${ENGINE:-docker podman buildah}; do
    command -v "$candidate" >/dev/null && echo "$candidate" && return
  done
  refuse "none of ${ENGINE:-docker, podman, buildah} is installed. Install one: apt-get install buildah"
}

# Set `flags` from the ARGs that the environment sets.
collect_build_args() {
  local name
  flags=(--build-arg "VERSION=${VERSION:-$(git -C "$root" describe --tags --always --dirty 2>/dev/null || echo dev)}"
    --build-arg "REVISION=${REVISION:-$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)}")
  for name in BASE_IMAGE PYTHON EXTRA_APT_PACKAGES UV_VERSION TORCH_INDEX_URL TORCH_VERSION PACKAGES_AS_OF \
    COMFYUI_REPO COMFYUI_REF SOURCE_URL; do
    [[ ! -v $name ]] || flags+=(--build-arg "$name=${!name}")
  done
}

# Mount a repository on this disk, so that the build can read it.
mount_local_repository() {
  [[ "${COMFYUI_REPO:-}" == /* ]] || return 0
  [[ "$engine" != docker ]] || refuse "docker cannot build from the local repository $COMFYUI_REPO: \
serve it over http, or use podman or buildah (ENGINE=buildah)"
  flags+=(--volume "$COMFYUI_REPO:$COMFYUI_REPO:ro")
}

engine="$(find_engine)"
collect_build_args
mount_local_repository
# --format: the OCI format has no HEALTHCHECK. --layers: keep the layers for the next build.
[[ "$engine" == docker ]] || flags+=(--format docker --layers)
read -ra more <<<"${BUILD_FLAGS:-}"

echo "Building $tag with $engine"
exec "$engine" build "${flags[@]}" "${more[@]}" --tag "$tag" --file "$root/Dockerfile" "$root"
