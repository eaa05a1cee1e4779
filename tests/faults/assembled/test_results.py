"""Results that go to S3, and a bucket that does not take them."""

from __future__ import annotations

import pytest

from tests.faults.assembled.in_process import InProcess
from tests.faults.assembled.sights import counted
from tests.support.prompts import image_prompt
from tests.support.s3_server import Canned

fault = pytest.mark.fault
DOWN = Canned(503, "SlowDown")


@pytest.fixture(scope="module")
def worker(tmp_path_factory, s3_process):
    """A worker with a bucket. Its tests share it; the next job's picture goes inline."""
    subject = InProcess(tmp_path_factory.mktemp("worker"), **s3_process.env())
    subject.secrets.append(s3_process.secret)
    yield subject
    subject.close()


@pytest.fixture
def setting(worker):
    """Change a setting of the worker for a test, as another deployment would have it."""
    settings, before = worker.worker.settings, {}

    def change(name: str, value: str) -> None:
        before[name] = getattr(settings, name)
        object.__setattr__(settings, name, value)

    yield change
    for name, value in before.items():
        object.__setattr__(settings, name, value)


def meets(case, worker, s3, prompt) -> dict:
    """A job that wants its picture in the bucket; what the bucket answered is seen."""

    def bucket() -> str:
        return "bucket: " + counted(str(request.status or "cut") for request in s3.seen)

    return case.meets(worker, {"prompt": prompt, "result": {"to": "s3"}}, seen=bucket)


@fault("s3-credentials")
def test_wrong_credentials_are_said_and_not_shown(worker, case, s3, setting):
    s3.check_signatures()
    worker.secrets.append("wrong-secret")
    setting("bucket_secret_access_key", "wrong-secret")
    told = meets(case, worker, s3, image_prompt(0xABC701))
    assert "credentials were refused" in told["error"]
    assert s3.keys() == []
    case.next_job(worker)


@fault("s3-bucket")
def test_a_missing_bucket_is_named(worker, case, s3, setting):
    setting("bucket_name", "nothere")
    told = meets(case, worker, s3, image_prompt(0xABC702))
    assert "nothere" in told["error"]
    case.next_job(worker)


@fault("s3-503")
def test_a_store_that_is_overloaded_for_a_moment_is_tried_again(worker, case, s3):
    s3.answers[:] = [DOWN, Canned(500, "InternalError")]
    meets(case, worker, s3, image_prompt(0xABC703))
    assert len(s3.keys()) == 1
    case.next_job(worker)


@fault("s3-cut")
def test_an_upload_that_is_cut_is_taken_up_again(worker, case, s3):
    s3.cut_after[:] = [50, 100]
    meets(case, worker, s3, image_prompt(0xABC704))
    assert len(s3.keys()) == 1
    case.next_job(worker)


@fault("s3-down")
def test_a_store_that_stays_down_is_an_error_that_says_a_repeated_job_is_cheap(worker, case, s3):
    s3.answers[:] = [DOWN] * 20
    told = meets(case, worker, s3, image_prompt(0xABC705))
    assert "repeated job" in told["error"]
    s3.answers.clear()
    case.next_job(worker)
