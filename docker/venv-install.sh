#!/usr/bin/env bash
# usage: venv-install.sh NAME ARGUMENT...
# `uv pip install ARGUMENT...` into the virtual environment /opt/venvs/NAME, which is made when it is not there yet.
#
# All bytecode is compiled here: a cold worker would otherwise compile thousands of files before its first job, and the
# next worker again. What is installed stands in NAME/installed.txt; NAME/constraints.txt, where there is one, holds.
set -euo pipefail

name="${1:?the name of the virtual environment}"
shift
uv=/opt/uv/bin/uv
venv="/opt/venvs/$name"

constraints=()
[[ ! -f "$venv/constraints.txt" ]] || constraints=(--constraint "$venv/constraints.txt")
[[ -n "${UV_EXCLUDE_NEWER:-}" ]] || unset UV_EXCLUDE_NEWER # empty would be a bad date

[[ -x "$venv/bin/python" ]] || "$uv" venv --quiet --python "$(command -v "${PYTHON:-python3}")" "$venv"
"$uv" pip install --python "$venv/bin/python" --no-cache --link-mode copy --compile-bytecode "${constraints[@]}" "$@"
"$uv" pip freeze --python "$venv/bin/python" >"$venv/installed.txt"
