#!/usr/bin/env bash
# usage: install-nodes.sh LIST
# Install the custom nodes of LIST (a line: REPOSITORY COMMIT [FOLDER]), then start ComfyUI once on the CPU to check that
# it loads them all. Any failure fails the build: an image without the node would fail every job that uses it.
set -euo pipefail

list="${1:?the list of custom nodes}"
comfyui=/comfyui
python=/opt/venvs/comfyui/bin/python

refuse() {
  echo "install-nodes.sh: $1" >&2
  exit 1
}

# usage: install_node REPOSITORY COMMIT FOLDER
install_node() {
  local repository="$1" commit="$2" folder="$comfyui/custom_nodes/$3"
  [[ "$commit" =~ ^[0-9a-f]{40}$ ]] \
    || refuse "$repository is not pinned ('$commit'): a branch or tag can move. Write the commit's 40 digits after it."
  [[ "$3" =~ ^[A-Za-z0-9._-]+$ && ! -e "$folder" ]] || refuse "'$3' cannot be the folder of $repository: name another"
  /build/checkout.sh "$repository" "$commit" "$folder"
  [[ ! -f "$folder/requirements.txt" ]] || /build/venv-install.sh comfyui --requirement "$folder/requirements.txt"
  [[ ! -f "$folder/install.py" ]] || (cd "$folder" && "$python" install.py)
}

install_all() {
  local repository commit folder rest
  while read -r repository commit folder rest; do
    [[ -n "$repository" && "$repository" != \#* ]] || continue
    [[ -z "$rest" ]] || refuse "too much on the line of $repository: it is REPOSITORY COMMIT [FOLDER]"
    install_node "$repository" "$commit" "${folder:-$(basename "$repository" .git)}"
  done <"$list"
}

start_comfyui_once() {
  local log
  log="$(mktemp)"
  (cd "$comfyui" && timeout 900 "$python" main.py --cpu --quick-test-for-ci) >"$log" 2>&1 \
    || { cat "$log" >&2; refuse "ComfyUI does not start; its log is above"; }
  ! grep -q 'IMPORT FAILED' "$log" \
    || { cat "$log" >&2; refuse "a custom node cannot be imported; its traceback is above"; }
  rm -f "$log"
}

mkdir -p "$comfyui/custom_nodes"
install_all
start_comfyui_once
"$python" -m compileall -q "$comfyui" || true # templates and Python 2 files that do not compile are never imported
