#!/usr/bin/env bash
# Starts the worker: sets its environment and becomes the handler, which owns ComfyUI and ends with it.
#
# `exec` makes the handler the process that gets the signals, and the container ends when it does. ComfyUI is the
# handler's child, started before the SDK is imported: it is ended with the handler on SIGTERM, killed with it on
# SIGKILL (setpriv --pdeathsig), and the handler ends once ComfyUI has died beyond its restart.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

refuse() {
  echo "start.sh: $1" >&2
  exit 1
}

# Sets `python` to the handler's: the image's, this checkout's, or any.
find_python() {
  python="${HANDLER_PYTHON:-$here/.venv/bin/python}"
  [[ -x "$python" ]] || python="$(command -v python3)" \
    || refuse "no Python here: run 'make run' once, or install python3"
}

# Whether the ComfyUI that this worker starts is to use a GPU.
wants_gpu() {
  [[ -z "${COMFYUI_URL:-}" && " ${COMFYUI_ARGS:-} " != *" --cpu "* ]] \
    && [[ "${RUNPOD_SKIP_GPU_CHECK:-}" != [Tt][Rr][Uu][Ee] ]] # the SDK's own switch
}

# On some hosts the driver is there and does not answer. ComfyUI would fail a minute later with a CUDA traceback, and
# the SDK takes a failing nvidia-smi for "no GPU here" and lets the worker take jobs. No torch is imported for this.
check_gpu() {
  wants_gpu && command -v nvidia-smi >/dev/null || return 0
  local said limit_s="${GPU_CHECK_TIMEOUT_S:-30}"
  said="$(timeout --kill-after=1 "$limit_s" nvidia-smi --list-gpus 2>&1)" \
    && [[ $'\n'"$said" == *$'\n'"GPU "[0-9]*:* ]] \
    || refuse "the GPU does not answer (nvidia-smi: ${said:-nothing within $limit_s s}). This host's driver or card is \
faulty, or the container was given no GPU: RunPod starts the worker elsewhere. To run without one, set \
COMFYUI_ARGS=--cpu."
}

# The SDK checks the machine before it takes jobs, and ends the worker where a check fails.
set_up_sdk() {
  # Its default is DEBUG, which prints every prompt and every answer whole.
  export RUNPOD_LOG_LEVEL="${RUNPOD_LOG_LEVEL:-INFO}"
  # Its default is 10 % of `/` free: a disk that models have filled on purpose would end the worker at every start. Each
  # download asks for room by itself (DISK_FULL); 1 % is left so that a disk with no room for an image is still told.
  export RUNPOD_MIN_DISK_PERCENT="${RUNPOD_MIN_DISK_PERCENT:-1}"
  # Memory (4 GB available), network and GPU allocation checks keep the SDK's defaults: what they refuse cannot render.
}

# Comfy's paid API nodes are 30 modules that most jobs never need: without a key for them they are left out.
leave_out_api_nodes() {
  [[ -z "${COMFY_ORG_API_KEY:-}" && "${COMFYUI_API_NODES:-0}" == 0 ]] || return 0
  [[ " ${COMFYUI_ARGS:-} " == *" --disable-api-nodes "* ]] \
    || export COMFYUI_ARGS="--disable-api-nodes ${COMFYUI_ARGS:-}"
}

# glibc's allocator keeps much of what unloaded models used; tcmalloc gives it back.
preload_tcmalloc() {
  local library
  for library in /usr/lib/"$(uname -m)"-linux-gnu/libtcmalloc{,_minimal}.so.4; do
    [[ -e "$library" ]] || continue
    export LD_PRELOAD="${LD_PRELOAD-$library}"
    return
  done
}

main() {
  find_python
  check_gpu
  set_up_sdk
  leave_out_api_nodes
  preload_tcmalloc
  export PYTHONUNBUFFERED=1
  cd "$here" # the SDK looks for test_input.json in the current folder
  exec "$python" handler.py "$@"
}

main "$@"
