"""What a worker claims, and which claims of others count."""

import time

import pytest

from tests.support.model_bench import claims_of
from worker.models.leases import Leases
from worker.models.locations import Location
from worker.process_id import process_id

FILE = Location("loras", "m1.safetensors")


@pytest.mark.parametrize(("left_s", "kept"), [(60, True), (-1, False)])
def test_a_claim_of_another_host_lasts_as_long_as_its_job_may(root, left_s, kept):
    claims_of(root, "elsewhere-1-1", until=time.time() + left_s, using=[str(FILE)])
    assert (FILE in Leases(root).others().using) is kept


def test_a_download_on_another_host_is_not_waited_for_since_nobody_sees_whether_it_lives(root):
    claims_of(root, "elsewhere-1-1", fetching=["civitai:1:10"])
    assert Leases(root).claim([FILE], ["civitai:1:10"], 60) == frozenset()


def test_claims_of_another_host_are_forgotten_after_a_day(root):
    old = claims_of(root, "elsewhere-1-1", until=time.time() - 25 * 3600)
    young = claims_of(root, "elsewhere-2-1", until=time.time() - 3600)
    Leases(root).others()
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"until": "x", "using": [], "fetching": []}', '{"using": [1]}', "\xff"]
)
def test_claims_that_cannot_be_read_are_none(root, text):
    claims_of(root, process_id()).write_text(text, encoding="latin-1")
    claims = Leases(root).others()
    assert (claims.using, claims.fetching) == (frozenset(), frozenset())
