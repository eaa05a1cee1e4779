#!/usr/bin/env bash
# usage: install-comfyui.sh REPO REF [TORCH_INDEX_URL] [PYTHON]
# Install ComfyUI at a tag, branch or commit into ./ComfyUI, with a virtual environment of its own. Safe to run again.
set -euo pipefail

repo="${1:?the git repository of ComfyUI}"
ref="${2:?the tag, branch or commit to install}"
torch_index_url="${3:-}"
python="${4:-python3}"
target="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/ComfyUI"

fetch_checkout() {
  [[ -d "$target/.git" ]] || git init --quiet "$target"
  git -C "$target" fetch --depth 1 "$repo" "$ref"
  git -C "$target" checkout --quiet --detach FETCH_HEAD
}

install_requirements() {
  [[ -x "$target/.venv/bin/python" ]] || "$python" -m venv "$target/.venv"
  local pip=("$target/.venv/bin/python" -m pip install --quiet)
  # torch first and from its own index, so that the requirements do not replace it
  "${pip[@]}" ${torch_index_url:+--index-url "$torch_index_url"} torch torchvision torchaudio
  "${pip[@]}" --requirement "$target/requirements.txt"
}

fetch_checkout
install_requirements
echo "ComfyUI $ref is in $target; 'make run' uses it from now on."
