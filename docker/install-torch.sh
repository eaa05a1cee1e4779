#!/usr/bin/env bash
# usage: install-torch.sh VERSION INDEX_URL
# Install exactly this version of torch, with matching torchvision and torchaudio, into ComfyUI's environment. Later
# installs cannot change them. An empty VERSION installs none; an empty INDEX_URL means PyPI.
set -euo pipefail

version="${1-}"
index_url="${2-}"
constraints=/opt/venvs/comfyui/constraints.txt

[[ -n "$version" ]] || {
  echo "install-torch.sh: TORCH_VERSION is empty, torch is left out"
  exit 0
}

/build/venv-install.sh comfyui ${index_url:+--index-url "$index_url"} "torch==$version" torchvision torchaudio
grep -E '^(torch|torchvision|torchaudio|triton)==' /opt/venvs/comfyui/installed.txt >"$constraints"
/opt/venvs/comfyui/bin/python -c \
  'import torch, torchvision; print("torch", torch.__version__, "for CUDA", torch.version.cuda)'
