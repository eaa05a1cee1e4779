"""Large inputs into a person's own bucket, against a real S3 server on loopback that checks signatures."""

from __future__ import annotations

import threading

import pytest
import requests

from client.s3 import SignedBucket
from client.sending import uploads
from client.sending.uploads import Uploader, UploadError, UploadSource, UploadStoppedError, check_bucket
from tests.support.s3_server import BUCKET, Canned

BIG = (12 << 20) + 5


@pytest.fixture(autouse=True)
def quick_and_small(monkeypatch):
    monkeypatch.setattr(uploads, "PAUSES_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(uploads, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(uploads, "SINGLE_PUT_BYTES", 6 << 20)


@pytest.fixture
def bucket(s3) -> SignedBucket:
    return SignedBucket.of(s3.url, BUCKET, "", s3.access, s3.secret)


@pytest.fixture
def uploader(bucket) -> Uploader:
    return Uploader(bucket, threading.Event())


def source(tmp_path, data: bytes, name: str = "film ä.mp4") -> UploadSource:
    path = tmp_path / name
    path.write_bytes(data)
    return UploadSource.of(path)


@pytest.fixture
def film(tmp_path) -> UploadSource:
    return source(tmp_path, bytes(range(256)) * (BIG // 256) + b"12345"[: BIG % 256])


def methods(s3) -> list[str]:
    return [seen.method for seen in s3.seen]


def test_a_file_goes_up_signed_once_and_its_link_brings_it_back(s3, uploader, tmp_path):
    small = source(tmp_path, b"a small film")
    s3.check_signatures()
    uploader.upload(small)
    link = uploader.upload(small)
    s3.check_signatures(False)
    assert methods(s3) == ["HEAD", "PUT", "HEAD"]
    assert s3.object(small.key) == (b"a small film", "video/mp4")
    assert small.key == f"comfy-inputs/{small.sha256}.mp4"
    assert f"X-Amz-Expires={24 * 3600}" in link and s3.secret not in link
    assert requests.get(link, timeout=10).content == b"a small film"


def test_a_large_file_goes_in_parts_and_every_byte_is_told(s3, bucket, film):
    sent_counts: list[int] = []
    s3.check_signatures()
    Uploader(bucket, threading.Event(), sent_counts.append).upload(film)
    s3.check_signatures(False)
    assert s3.object(film.key) == (film.path.read_bytes(), "video/mp4")
    assert sorted(methods(s3)) == ["HEAD", "POST", "POST", "PUT", "PUT", "PUT"]
    assert sum(sent_counts) == film.size


def test_what_passes_is_tried_again_and_counted_once(s3, bucket, film):
    sent_counts: list[int] = []
    s3.answers += [Canned(503, "SlowDown"), Canned(404, "NoSuchKey"), Canned(500, "InternalError")]
    s3.cut_after += [1000, 70_000]
    Uploader(bucket, threading.Event(), sent_counts.append).upload(film)
    assert s3.object(film.key)[0] == film.path.read_bytes()
    assert sum(sent_counts) == film.size
    assert s3.unfinished() == 0


@pytest.mark.parametrize(
    ("answer", "says"),
    [(Canned(403, "SignatureDoesNotMatch"), "refused the keys"), (Canned(403, "AccessDenied"), "may read and write"),
     (Canned(404, "NoSuchBucket"), "no bucket 'pics'"), (Canned(503, "SlowDown"), "overloaded or down"),
     (Canned(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), "region eu-west-1"),
     (Canned(301, "PermanentRedirect", "<Region>eu-west-1</Region>"), "region eu-west-1")],
)  # fmt: skip
def test_a_refusal_says_what_to_correct_and_leaves_nothing(s3, uploader, film, answer, says):
    s3.answers += [Canned(404, "NoSuchKey"), *[answer] * 4]
    with pytest.raises(UploadError, match=says) as caught:
        uploader.upload(film)
    assert s3.secret not in str(caught.value) and s3.access not in str(caught.value)
    assert s3.unfinished() == 0


def test_keys_that_may_not_list_cannot_tell_what_is_there_and_upload_all_the_same(s3, uploader, tmp_path):
    s3.answers += [Canned(403, "AccessDenied")]
    small = source(tmp_path, b"x")
    uploader.upload(small)
    assert methods(s3) == ["HEAD", "PUT"]


def test_wrong_keys_and_nobody_there(s3, tmp_path):
    s3.check_signatures()
    wrong = SignedBucket.of(s3.url, BUCKET, "", s3.access, "wrong")
    with pytest.raises(UploadError, match="refused the keys"):
        Uploader(wrong, threading.Event()).upload(source(tmp_path, b"x"))
    nobody = SignedBucket.of("http://127.0.0.1:9", BUCKET, "", s3.access, s3.secret)
    with pytest.raises(UploadError, match="ConnectionRefusedError"):
        Uploader(nobody, threading.Event()).upload(source(tmp_path, b"x"))


def test_a_stop_ends_it_and_the_parts_are_dropped(s3, bucket, film):
    stop = threading.Event()

    def sent(count):
        if count:
            stop.set()

    with pytest.raises(UploadStoppedError):
        Uploader(bucket, stop, sent).upload(film)
    assert s3.unfinished() == 0
    assert s3.keys() == []


def test_a_file_that_changes_meanwhile_does_not_take_the_others_place(s3, bucket, film):
    def sent(_):
        film.path.touch()

    with pytest.raises(UploadError, match="was changed"):
        Uploader(bucket, threading.Event(), sent).upload(film)
    assert s3.keys() == [] and s3.unfinished() == 0


def test_a_file_that_changed_after_it_was_looked_at_is_not_uploaded_as_what_it_was(s3, uploader, film):
    film.path.write_bytes(film.path.read_bytes()[:-10])
    with pytest.raises(UploadError, match="was changed"):
        uploader.upload(film)
    assert s3.keys() == [] and s3.unfinished() == 0


def test_a_completion_whose_answer_was_lost_is_looked_for(s3, uploader, film):
    """HEAD, begin, three parts; then the completion is done, and its answer says otherwise."""
    complete = uploader._ask

    def lost(method, url, *more, **named):
        answer = complete(method, url, *more, **named)
        if method == "POST" and "uploadId=" in url:
            raise UploadError("The bucket answered 404 NoSuchUpload.")
        return answer

    uploader._ask = lost
    uploader.upload(film)
    assert s3.object(film.key)[0] == film.path.read_bytes()


def test_the_test_button_puts_and_fetches(s3, bucket):
    check_bucket(bucket, threading.Event())
    assert s3.keys() == ["comfy-inputs/test.txt"]
