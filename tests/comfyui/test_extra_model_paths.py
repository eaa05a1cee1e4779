"""ComfyUI reads every folder that this worker fills, and every other that it has, from the models folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.comfyui.extra_model_paths import extra_model_paths
from worker.sites.types import MANAGED_FOLDERS


@pytest.mark.parametrize("folder", [*MANAGED_FOLDERS, "model_patches", "style_models"])
def test_every_folder_is_mapped(folder):
    assert f"\n  {folder}: " in extra_model_paths(Path("/volume/models"))


def test_both_names_of_a_renamed_folder_are_searched_the_new_one_first():
    text = extra_model_paths(Path("/volume/models"))
    assert "  text_encoders: |\n    clip/\n    text_encoders/\n" in text


def test_a_quote_in_the_path_stays_a_quote():
    assert "base_path: '/it''s here'" in extra_model_paths(Path("/it's here"))
