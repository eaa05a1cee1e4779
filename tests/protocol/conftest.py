"""The engines that the suite speaks to: the simulator always, a real ComfyUI when COMFYUI_PATH names one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.simulator_process import CHECKPOINT, Engine

_CHECKOUT = os.environ.get("COMFYUI_PATH")
_REAL = pytest.param("comfyui", marks=pytest.mark.real_comfyui)


@pytest.fixture(scope="session", params=["simulator", *([_REAL] if _CHECKOUT else [])])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    real = request.param == "comfyui"
    checkout = Path(_CHECKOUT).resolve() if real and _CHECKOUT else None
    with Engine(checkout=checkout, python=os.environ.get("COMFYUI_PYTHON")) as engine:
        if not real:
            engine.add_model("checkpoints", CHECKPOINT)
        yield engine


@pytest.fixture
def sampling_engine(engine: Engine) -> Engine:
    if not (engine.models / "checkpoints" / CHECKPOINT).exists():
        pytest.skip(f"this ComfyUI has no {CHECKPOINT}")
    return engine
