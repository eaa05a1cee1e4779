"""The environment becomes one frozen object, or the start stops with the variable's name."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from worker.settings import REPO_ROOT, SETTINGS, SIMULATOR_PATH, Settings, SettingsError

SECRET = "tok-1234567890"
BUCKET = {
    "BUCKET_ENDPOINT_URL": "https://s3.example.com",
    "BUCKET_ACCESS_KEY_ID": "AK-test",
    "BUCKET_SECRET_ACCESS_KEY": "SK-test",
    "BUCKET_NAME": "pics",
}
NOT_OURS = {  # read by start.sh, and by RunPod's SDK
    "COMFYUI_API_NODES",
    "GPU_CHECK_TIMEOUT_S",
    "RUNPOD_MIN_DISK_PERCENT",
    "RUNPOD_MIN_MEMORY_GB",
    "RUNPOD_SKIP_GPU_CHECK",
}


def test_every_setting_is_a_field_and_every_field_a_setting():
    fields = {field.name for field in dataclasses.fields(Settings)} - {"simulated"}
    assert fields == {setting.name.lower() for setting in SETTINGS}


def test_every_setting_stands_in_its_page():
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", (REPO_ROOT / "docs" / "settings.md").read_text()))
    assert {setting.name for setting in SETTINGS} <= named


def test_the_example_environment_has_every_setting_that_an_image_leaves_open_with_its_default():
    decided_by_the_image = {"COMFYUI_PATH", "COMFYUI_PYTHON", "COMFYUI_URL"}
    text = (REPO_ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^#([A-Z][A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert {setting.name for setting in SETTINGS} - decided_by_the_image == shown.keys() - NOT_OURS
    fixed = {s.name: s for s in SETTINGS if s.default not in (None, (), "") and s.name in shown}
    assert {name: fixed[name].parse(shown[name]) for name in fixed} == {name: s.default for name, s in fixed.items()}


def test_the_hub_offers_only_settings_there_are():
    config = json.loads((REPO_ROOT / ".runpod" / "hub.json").read_text())["config"]
    offered = {field["key"] for field in config["env"]}
    assert offered <= {setting.name for setting in SETTINGS}
    assert all(preset["defaults"].keys() <= offered for preset in config["presets"])


def test_the_defaults_of_the_contract(monkeypatch):
    settings = Settings.from_environ({})
    assert (settings.job_timeout_s, settings.comfyui_start_timeout_s, settings.result_limit_mb) == (570, 300, 9.5)
    assert (settings.prune, settings.keep_gb, settings.download_connections) == (True, 0, 16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.prune = False  # type: ignore[misc]


def test_without_a_comfyui_the_simulator_stands_in(monkeypatch):
    monkeypatch.setattr("worker.settings.IMAGE_COMFYUI_PATH", Path("nowhere"))
    monkeypatch.setattr("worker.settings.REPO_ROOT", Path("nowhere"))
    settings = Settings.from_environ({})
    assert settings.simulated
    assert settings.comfyui_path == SIMULATOR_PATH


def test_a_named_path_without_comfyui_stops_the_start(tmp_path):
    with pytest.raises(SettingsError, match="COMFYUI_PATH"):
        Settings.from_environ({"COMFYUI_PATH": str(tmp_path)})


def test_a_checkouts_own_venv_runs_it(tmp_path):
    (tmp_path / "main.py").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    settings = Settings.from_environ({"COMFYUI_PATH": str(tmp_path)})
    assert settings.comfyui_python == str(python)
    assert not settings.simulated
    assert settings.models_dir == tmp_path / "models"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOB_TIMEOUT_S", "soon"),
        ("JOB_TIMEOUT_S", "0"),
        ("JOB_TIMEOUT_S", "nan"),
        ("PRUNE", "perhaps"),
        ("COMFYUI_URL", "localhost:8188"),
        ("CIVITAI_URL", "https://user:pass@host"),
        ("LOG_LEVEL", "LOUD"),
        ("DOWNLOAD_CONNECTIONS", "1000"),
        ("COMFYUI_ARGS", "'unclosed"),
    ],
)
def test_a_bad_value_names_its_variable(name, value):
    with pytest.raises(SettingsError, match=name):
        Settings.from_environ({name: value})


def test_secrets_do_not_show():
    settings = Settings.from_environ({"CIVITAI_TOKEN": SECRET, "HF_TOKEN": SECRET})
    assert SECRET not in repr(settings)
    assert settings.secrets == (SECRET, SECRET)


@pytest.mark.parametrize("missing", list(BUCKET))
def test_half_a_bucket_stops_the_start(missing):
    with pytest.raises(SettingsError, match=missing) as caught:
        Settings.from_environ({name: value for name, value in BUCKET.items() if name != missing})
    assert "SK-test" not in str(caught.value)


def test_a_whole_bucket_starts_and_shows_no_secret():
    settings = Settings.from_environ({**BUCKET, "BUCKET_PREFIX": "a/", "BUCKET_LINK_LIFE_S": "600"})
    assert settings.bucket is not None
    assert (settings.bucket.prefix, settings.bucket.link_life_s) == ("a/", 600)
    assert Settings.from_environ({}).bucket is None
    for shown in (repr(settings), repr(settings.bucket)):
        assert "SK-test" not in shown
        assert "AK-test" not in shown
    assert {"SK-test", "AK-test"} <= set(settings.secrets)


@pytest.mark.parametrize(
    ("name", "value"),
    [("RESULT_TO", "s3"), ("RESULT_TO", "ftp"), ("BUCKET_LINK_LIFE_S", "9999999"), ("RESULT_QUALITY", "0")],
)
def test_settings_that_cannot_be_used_are_named(name, value):
    with pytest.raises(SettingsError, match=name):
        Settings.from_environ({name: value})
