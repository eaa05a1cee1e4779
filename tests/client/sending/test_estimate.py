"""The estimate of a silent worker's progress."""

from __future__ import annotations

import pytest

from client.sending import estimate
from client.sending.estimate import Sampler, position, samplers, updated_ms_per_step
from tests.client.support import node


def test_samplers_are_found_in_their_order_with_their_steps():
    prompt = {
        "9": node("SaveImage", images=["2", 0]),
        "2": node("KSamplerAdvanced", steps=30, start_at_step=10, end_at_step=10000, latent_image=["1", 0]),
        "1": node("KSampler", steps=["7", 0]),
        "7": node("PrimitiveInt", value=12),
        "5": node("SamplerCustomAdvanced", sigmas=["6", 0], latent=["2", 0]),
        "6": node("BasicScheduler", steps=8),
        "8": node("KSamplerSelect", sampler_name="euler"),
    }
    assert samplers(prompt) == [Sampler("1", 12), Sampler("2", 20), Sampler("5", 8)]
    assert samplers(prompt, ["9"]) == [Sampler("1", 12), Sampler("2", 20)]
    loop = {"1": node("A", x=["2", 0]), "2": node("B", x=["1", 0])}
    assert sorted(estimate.execution_order(loop)) == ["1", "2"]


def test_the_estimate_never_claims_the_end():
    plan = [Sampler("1", 10), Sampler("2", 5)]
    assert position(plan, 0, 100).step == 0
    assert (position(plan, 950, 100).node_id, position(plan, 950, 100).step) == ("1", 9)
    assert (position(plan, 1200, 100).node_id, position(plan, 1200, 100).done) == ("2", ("1",))
    assert position(plan, 10**9, 100).step == 4
    assert position([], 5, 100) is None
    assert estimate.updated_ms_per_step(None, 1500, plan) == 100
    assert 100 < estimate.updated_ms_per_step(100, 3000, plan) < 200
    assert estimate.updated_ms_per_step(100, 3000, []) == 100


@pytest.mark.parametrize("steps", [float("inf"), float("nan"), 10**400, -5])
def test_any_number_of_steps_can_be_counted(steps):
    plan = samplers({"1": {"class_type": "KSampler", "inputs": {"steps": steps}}})
    assert plan[0].steps >= 1
    assert updated_ms_per_step(None, 1000.0, plan) > 0
