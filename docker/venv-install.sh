#!/usr/bin/env bash
# usage: venv-install.sh NAME ARGUMENT...
# Run `uv pip install ARGUMENT...` in the virtual environment /opt/venvs/NAME; make the environment if it is missing.
#
# All bytecode is compiled here: otherwise each cold worker would compile thousands of files before its first job.
# NAME/installed.txt lists what is installed. If there is a NAME/constraints.txt, it applies.
set -euo pipefail

name="${1:?the name of the virtual environment}"
shift
uv=/opt/uv/bin/uv
venv="/opt/venvs/$name"

constraints=()
[[ ! -f "$venv/constraints.txt" ]] || constraints=(--constraint "$venv/constraints.txt")
[[ -n "${UV_EXCLUDE_NEWER:-}" ]] || unset UV_EXCLUDE_NEWER # uv refuses an empty date

[[ -x "$venv/bin/python" ]] || "$uv" venv --quiet --python "$(command -v "${PYTHON:-python3}")" "$venv"
"$uv" pip install --python "$venv/bin/python" --no-cache --link-mode copy --compile-bytecode "${constraints[@]}" "$@"
"$uv" pip freeze --python "$venv/bin/python" >"$venv/installed.txt"
