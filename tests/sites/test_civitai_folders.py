from __future__ import annotations

import pytest

from worker.sites.civitai_folders import folder_of


@pytest.mark.parametrize(
    ("model_type", "file_type", "base_model", "folder"),
    [
        ("Checkpoint", "Model", "SDXL 1.0", "checkpoints"),
        ("Checkpoint", "Pruned Model", "Illustrious", "checkpoints"),
        ("Checkpoint", "Model", "Flux.1 D", "diffusion_models"),
        ("Checkpoint", "Model", "Wan Video 2.2 T2V-A14B", "diffusion_models"),
        ("Checkpoint", "Model", "ZImageTurbo", "diffusion_models"),
        ("Checkpoint", "UNet", "SDXL 1.0", "diffusion_models"),
        ("Checkpoint", "Text Encoder", "Flux.1 D", "text_encoders"),
        ("Checkpoint", "Model", "Pony", "checkpoints"),
        ("Checkpoint", "Model", "Pony V7", None),
        ("Checkpoint", "Model", "Something New", None),
        ("Checkpoint", "Model", "", None),
        ("LORA", "Model", "Flux.1 D", "loras"),
        ("LoCon", "Model", "", "loras"),
        ("DoRA", "Model", "", "loras"),
        ("TextualInversion", "Model", "", "embeddings"),
        ("TextualInversion", "Negative", "", "embeddings"),
        ("Controlnet", "Model", "", "controlnet"),
        ("Upscaler", "Model", "", "upscale_models"),
        ("VAE", "Model", "", "vae"),
        ("Workflows", "Archive", "", None),
        ("Checkpoint", "Training Data", "SDXL 1.0", None),
        ("Poses", "Model", "", None),
    ],
)
def test_the_folder_by_type(model_type, file_type, base_model, folder):
    assert folder_of(model_type, file_type, base_model) == folder
