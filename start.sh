#!/usr/bin/env bash
# Start the worker: set its environment, then become the handler (`exec`).
#
# So the handler is the process that gets the signals, and the container ends when the handler ends. ComfyUI is the
# handler's child. On SIGTERM the handler stops it; on SIGKILL it is killed with the handler (setpriv --pdeathsig). If
# ComfyUI dies again after its one restart, the handler ends as well.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

refuse() {
  echo "start.sh: $1" >&2
  exit 1
}

# Set `python` to the handler's Python: the image's, this checkout's, or any other.
find_python() {
  python="${HANDLER_PYTHON:-$here/.venv/bin/python}"
  [[ -x "$python" ]] || python="$(command -v python3)" \
    || refuse "no Python here: run 'make run' once, or install python3"
}

# Succeed if the ComfyUI that this worker starts will use a GPU.
wants_gpu() {
  [[ -z "${COMFYUI_URL:-}" && " ${COMFYUI_ARGS:-} " != *" --cpu "* ]] \
    && [[ "${RUNPOD_SKIP_GPU_CHECK:-}" != [Tt][Rr][Uu][Ee] ]] # the SDK's own switch
}

# On some hosts the driver is installed but does not answer. ComfyUI would fail a minute later with a CUDA traceback. The
# SDK does not find it either: it treats a failing nvidia-smi as "no GPU here" and lets the worker take jobs. This check
# needs no torch.
check_gpu() {
  wants_gpu && command -v nvidia-smi >/dev/null || return 0
  local output limit_s="${GPU_CHECK_TIMEOUT_S:-30}"
  output="$(timeout --kill-after=1 "$limit_s" nvidia-smi --list-gpus 2>&1)" \
    && [[ $'\n'"$output" == *$'\n'"GPU "[0-9]*:* ]] \
    || refuse "the GPU does not answer (nvidia-smi: ${output:-nothing within $limit_s s}). This host's driver or card is \
faulty, or the container was given no GPU: RunPod starts the worker elsewhere. To run without a GPU, set \
COMFYUI_ARGS=--cpu."
}

# The SDK checks the machine before it takes jobs, and ends the worker if a check fails.
set_up_sdk() {
  # The SDK's default is DEBUG, which prints every prompt and every answer in full.
  export RUNPOD_LOG_LEVEL="${RUNPOD_LOG_LEVEL:-INFO}"
  # The SDK's default is 10 % of `/` free. Models fill the disk on purpose, so the worker would end at every start. Each
  # download checks the free space itself (DISK_FULL); 1 % still reports a disk that has no space for an image.
  export RUNPOD_MIN_DISK_PERCENT="${RUNPOD_MIN_DISK_PERCENT:-1}"
  # The checks of memory (4 GB available), network and GPU allocation keep the SDK's defaults: a machine that fails one of
  # them cannot render.
}

# Comfy's paid API nodes are 30 modules that most jobs never need: they are loaded only if there is a key for them.
leave_out_api_nodes() {
  [[ -z "${COMFY_ORG_API_KEY:-}" && "${COMFYUI_API_NODES:-0}" == 0 ]] || return 0
  [[ " ${COMFYUI_ARGS:-} " == *" --disable-api-nodes "* ]] \
    || export COMFYUI_ARGS="--disable-api-nodes ${COMFYUI_ARGS:-}"
}

# glibc's allocator keeps much of the memory that unloaded models used; tcmalloc returns it to the system.
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
