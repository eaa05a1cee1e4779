#!/usr/bin/env bash
# Starts the worker: sets its environment and becomes the handler, which owns ComfyUI and ends with it.
#
# `exec` makes the handler the process that gets the container's signals, and the container ends when it does. ComfyUI is
# the handler's child: it is ended with the handler on SIGTERM, killed with it on SIGKILL (setpriv --pdeathsig), and the
# handler ends once ComfyUI has died beyond its restart.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# The SDK's default is DEBUG, which prints every prompt and every answer whole.
export RUNPOD_LOG_LEVEL="${RUNPOD_LOG_LEVEL:-INFO}"
export PYTHONUNBUFFERED=1

python="$here/.venv/bin/python"
[[ -x "$python" ]] || python="$(command -v python3)" || {
  echo "start.sh: no Python here: run 'make run' once, or install python3" >&2
  exit 1
}

cd "$here" # the SDK looks for test_input.json in the current folder
exec "$python" handler.py "$@"
