"""Over real TLS on loopback: a store with a certificate of its own authority, which ``SSL_CERT_FILE`` makes trusted."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from client.remote_sink import RejectedError
from client.results import link_download as links
from client.results.link_download import ResultLink, download
from client.s3 import SignedBucket
from client.sending import uploads
from client.sending.uploads import Uploader, UploadError, UploadSource, check_bucket
from tests.support.disk_s3 import BUCKET, DiskS3
from tests.support.own_ca import OwnCa

NEAR = "https://localhost:1/v2/ep"
FILM = os.urandom(1 << 20) * 3 + b"end"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> OwnCa:
    return OwnCa(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def store(authority, tmp_path, monkeypatch) -> Iterator[DiskS3]:
    monkeypatch.setattr(links, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(uploads, "PAUSES_S", (0.01,))
    with DiskS3(tmp_path, authority.certificate) as store:
        yield store


@pytest.fixture
def trusted(authority, monkeypatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.authority))


def bucket(store, host: str = "localhost") -> SignedBucket:
    return SignedBucket.of(store.url.replace("localhost", host), BUCKET, "", "A", "S")


def film(tmp_path) -> UploadSource:
    path = tmp_path / "film.mp4"
    path.write_bytes(FILM)
    return UploadSource.of(path)


def test_up_and_down_over_tls_with_a_cut_connection_resumed(store, trusted, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "SINGLE_PUT_BYTES", 1 << 20)
    monkeypatch.setattr(uploads, "PART_BYTES", 1 << 20)
    source = film(tmp_path)
    check_bucket(bucket(store), threading.Event())
    url = Uploader(bucket(store), threading.Event()).upload(source)
    assert url.startswith("https://localhost:")
    store.cut_after.append(1_000_000)
    part = tmp_path / "got.mp4"
    part.touch()
    assert download(ResultLink.of({"url": url, "bytes": len(FILM)}, NEAR), part) == source.sha256
    assert part.read_bytes() == FILM
    assert [asked for method, _, asked in store.seen if method == "GET"][-1].startswith("bytes=")


@pytest.mark.parametrize("trusts", [False, True])
def test_a_certificate_that_is_not_trusted_or_anothers_is_refused(store, authority, tmp_path, monkeypatch, trusts):
    """Not trusted at all; or trusted, but for another name than the one that was asked."""
    if trusts:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.authority))
    host = "127.0.0.1" if trusts else "localhost"
    with pytest.raises(UploadError, match="certificate is not valid"):
        Uploader(bucket(store, host), threading.Event()).upload(film(tmp_path))
    part = tmp_path / "got.mp4"
    part.touch()
    url = f"{store.url}/pics/a.mp4?X-Amz-Signature=s".replace("localhost", host)
    with pytest.raises(RejectedError, match="certificate is not valid"):
        download(ResultLink.of({"url": url}, NEAR), part)
    assert part.read_bytes() == b""
