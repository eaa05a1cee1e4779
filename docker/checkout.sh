#!/usr/bin/env bash
# usage: checkout.sh REPOSITORY REF FOLDER
# Check out one commit of a git repository (tag, branch or full commit) without its history. .git is deleted, because it
# would only make the image larger; FOLDER/.commit has the commit's hash.
set -euo pipefail

repository="${1:?a git repository}"
ref="${2:?a tag, branch or commit}"
folder="${3:?where to put it}"

git init --quiet "$folder"
git -C "$folder" fetch --quiet --depth 1 "$repository" "$ref" || {
  echo "checkout.sh: '$repository' has no '$ref', or cannot be reached. Name another with COMFYUI_REPO and" \
    "COMFYUI_REF, or correct the line in custom_nodes.txt." >&2
  exit 1
}
git -C "$folder" checkout --quiet --detach FETCH_HEAD
git -C "$folder" submodule update --quiet --init --recursive --depth 1
git -C "$folder" rev-parse HEAD >"$folder/.commit"
rm -rf "$folder/.git"
