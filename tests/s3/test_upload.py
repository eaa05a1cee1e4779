"""Against a real S3 server on loopback: every fault is a clear end, and nothing is lost that a retry could save."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from tests.support.s3_server import BUCKET, Canned, S3Server
from tests.support.waiting import wait_until
from worker.errors import Code, WorkerError
from worker.net.connections import AllowedPeers
from worker.net.retry import Retry
from worker.s3.address import Keys, bucket_address
from worker.s3.upload import Body, Bucket
from worker.settings import REPO_ROOT
from worker.stop import Stop, StoppedError

QUICK = Retry(tries=4, scale=0.001, connect_s=10.0, read_s=20.0)
BIG = (12 << 20) + 5
FOREVER_S = 600.0  # past pytest's timeout


def bucket_of(s3: S3Server, name: str = BUCKET, keys: Keys | None = None, **options) -> Bucket:
    keys = keys or Keys(s3.access, s3.secret)
    return Bucket(bucket_address(s3.url, name, keys, **options), AllowedPeers.ANY, QUICK)


def put(bucket: Bucket, key: str = "job/a.png", data: bytes = b"picture", stop: Stop | None = None) -> None:
    with bucket.uploads(stop or Stop()) as uploads:
        uploads.put(key, Body(len(data), data=data), "image/png")


def failure(bucket: Bucket) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        put(bucket)
    assert caught.value.code is Code.UPLOAD_FAILED
    assert "repeated job" in str(caught.value)
    return caught.value


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """As small as S3 takes them, and the server here is slow."""
    monkeypatch.setattr("worker.s3.upload.PART_BYTES", 5 << 20)
    monkeypatch.setattr("worker.s3.upload.SINGLE_PUT_BYTES", 6 << 20)


@pytest.fixture(scope="module")
def big_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("s3") / "big.mp4"
    path.write_bytes(os.urandom(1 << 20) * (BIG >> 20) + b"12345")
    return path


def test_a_signed_upload_arrives_with_its_type_and_any_name(s3):
    s3.check_signatures()
    put(bucket_of(s3), "job/sub folder/ä+b (2).png")
    put(bucket_of(s3), "job/empty.txt", b"")
    s3.check_signatures(False)
    assert s3.object("job/sub folder/ä+b (2).png") == (b"picture", "image/png")
    assert s3.object("job/empty.txt")[0] == b""


def test_a_large_file_goes_in_parts(s3, big_file):
    s3.check_signatures()
    with bucket_of(s3).uploads(Stop()) as uploads:
        uploads.put("big.mp4", Body(BIG, path=big_file), "video/mp4")
    s3.check_signatures(False)
    assert s3.object("big.mp4") == (big_file.read_bytes(), "video/mp4")
    assert sum("partNumber=" in seen.path for seen in s3.seen) == 3


def test_a_link_works(s3):
    put(bucket_of(s3), "job/ä b+c.png")
    url, life = bucket_of(s3, link_life_s=600).link("job/ä b+c.png")
    assert (requests.get(url, timeout=10).content, life) == (b"picture", 600)


def test_a_public_bucket_gives_links_that_do_not_expire(s3):
    link = bucket_of(s3, public_url="https://cdn.example.com/x").link("job/a b.png")
    assert link == ("https://cdn.example.com/x/job/a%20b.png", None)


@pytest.mark.parametrize(
    ("keys", "said"),
    [(None, "SignatureDoesNotMatch"), (Keys("nobody", "test-secret"), "InvalidAccessKeyId")],
)
def test_wrong_credentials_say_so_at_once_and_are_not_shown(s3, keys, said):
    s3.check_signatures()
    error = failure(bucket_of(s3, keys=keys or Keys(s3.access, "test-secret")))
    assert f"credentials were refused (403 {said})" in str(error)
    assert "BUCKET_SECRET_ACCESS_KEY" in str(error)
    assert "test-secret" not in str(error)
    assert len(s3.seen) == 1


def test_a_missing_bucket_is_named(s3):
    error = failure(bucket_of(s3, "nothere"))
    assert "no bucket 'nothere'" in str(error)
    assert "BUCKET_NAME" in str(error)


def test_an_overloaded_server_is_tried_again_until_well(s3):
    s3.answers[:] = [Canned(503, "SlowDown"), Canned(500, "InternalError"), Canned(429, "Throttling")]
    put(bucket_of(s3))
    assert s3.object("job/a.png")[0] == b"picture"


def test_a_server_that_stays_down_ends_in_an_error(s3):
    s3.answers[:] = [Canned(503, "ServiceUnavailable")] * 9
    assert "answered 503 (ServiceUnavailable)" in str(failure(bucket_of(s3)))
    assert len(s3.seen) == QUICK.tries


def test_a_wrong_region_is_told_with_the_right_one(s3):
    s3.answers[:] = [Canned(400, "AuthorizationHeaderMalformed", "<Region>eu-central-1</Region>")]
    assert "Set BUCKET_REGION" in str(error := failure(bucket_of(s3)))
    assert "eu-central-1" in str(error)


def test_a_cut_connection_is_taken_up_again(s3, big_file):
    s3.cut_after[:] = [5, 100_000, 1 << 20]
    with bucket_of(s3).uploads(Stop()) as uploads:
        uploads.put("big.mp4", Body(BIG, path=big_file), "video/mp4")
        uploads.put("small.png", Body(7, data=b"picture"), "image/png")
    assert s3.object("big.mp4")[0] == big_file.read_bytes()
    assert s3.object("small.png")[0] == b"picture"


def test_a_connection_that_is_always_cut_ends_in_an_error_and_leaves_no_parts(s3, big_file):
    s3.cut_after[:] = [100] * 100
    with pytest.raises(WorkerError, match="connection to the bucket broke"), bucket_of(s3).uploads(Stop()) as uploads:
        uploads.put("big.mp4", Body(BIG, path=big_file), "video/mp4")
    assert s3.keys() == []
    assert s3.unfinished() == 0


def test_a_completion_that_fails_inside_a_200_is_noticed(s3, big_file):
    class Once(list):
        def __bool__(self):
            return bool(len(self)) and s3.seen[-1].method == "POST" and "uploadId" in s3.seen[-1].path

    s3.answers = Once([Canned(200, "InternalError")])
    try:
        with bucket_of(s3).uploads(Stop()) as uploads:
            uploads.put("big.mp4", Body(BIG, path=big_file), "video/mp4")
    finally:
        s3.answers = []
    assert s3.object("big.mp4")[0] == big_file.read_bytes()


def test_a_server_that_is_not_there_ends_in_an_error(s3):
    address = bucket_address("http://127.0.0.1:9", "pics", Keys("a", "b"))
    assert "connection to the bucket broke" in str(failure(Bucket(address, AllowedPeers.ANY, QUICK)))


def test_a_cancelled_job_ends_its_uploads_at_once(s3):
    stop = Stop()
    s3.stall[:] = [FOREVER_S]  # neither the answer nor a read timeout could end the upload in a test's time
    bucket = Bucket(bucket_of(s3).address, AllowedPeers.ANY, dataclasses.replace(QUICK, read_s=FOREVER_S))
    canceller = threading.Thread(target=lambda: wait_until(lambda: s3.seen) and stop.set())
    canceller.start()
    with pytest.raises(StoppedError):
        put(bucket, stop=stop)
    canceller.join()


def test_the_jobs_deadline_bounds_an_upload(s3):
    s3.stall[:] = [5.0]
    with pytest.raises(WorkerError, match="TIMEOUT"):
        put(bucket_of(s3), stop=Stop(time.monotonic() + 0.3))


def test_many_files_go_at_once_and_all_arrive(s3):
    with bucket_of(s3).uploads(Stop()) as uploads:
        for number in range(20):
            uploads.put(f"job/{number}.png", Body(3, data=f"{number:03}".encode()), "image/png")
    assert len(s3.keys()) == 20
    assert s3.object("job/7.png")[0] == b"007"


@pytest.mark.parametrize("endpoint", ["http://s3.example.com", "https://127.0.0.1", "https://[::1]", "https://0x7f.1"])
def test_a_jobs_own_bucket_must_be_public_https(endpoint):
    with pytest.raises(WorkerError, match=r"s3Config\.endpointUrl"):
        Bucket.of_a_job(bucket_address(endpoint, "pics", Keys("a", "b")), ())


def test_a_jobs_own_bucket_whose_name_leads_inside_is_not_spoken_to(s3, monkeypatch):
    import socket

    port = int(s3.url.rpartition(":")[2])
    inside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: inside)
    address = bucket_address(f"https://store.example.com:{port}", "pics", Keys("a", "b"))
    assert "127.0.0.1, which is not a public address" in str(failure(Bucket.of_a_job(address, (), QUICK)))
    assert s3.seen == []


def test_the_operator_may_allow_a_private_one(s3):
    host = s3.url.removeprefix("http://")
    address = bucket_address(s3.url, BUCKET, Keys(s3.access, s3.secret))
    put(Bucket.of_a_job(address, (host,), QUICK))
    assert s3.keys() == ["job/a.png"]


def test_a_large_upload_takes_no_memory(s3, tmp_path):
    video = tmp_path / "video.mp4"
    with video.open("wb") as file:
        file.truncate(64 << 20)
    script = """
import sys
from pathlib import Path
from worker.s3.upload import Body, Bucket
from worker.stop import Stop
from worker.s3.address import Keys, bucket_address

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

url, name, access, secret, path = sys.argv[1:]
before = peak()
with Bucket(bucket_address(url, name, Keys(access, secret))).uploads(Stop()) as uploads:
    uploads.put("video.mp4", Body(Path(path).stat().st_size, path=Path(path)), "video/mp4")
print((peak() - before) // 1024)
"""
    arguments = [s3.url, BUCKET, s3.access, s3.secret, str(video)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=REPO_ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16, "megabytes for 64 that were sent"
    assert len(s3.object("video.mp4")[0]) == 64 << 20


def test_a_key_stays_inside_its_job():
    bucket = Bucket(bucket_address("https://h", "pics", Keys("AK", "SK"), prefix="/out/"))
    assert bucket.key("job-1", "sub/dir", "a.png") == "out/job-1/sub/dir/a.png"
    assert bucket.key("../x", "../..", "/etc/x") == "out/.._x/_etc_x"
