"""Links straight to a file, on a host without metadata: name and size come from its first answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

import requests
from requests.structures import CaseInsensitiveDict

from worker.errors import Code
from worker.net.retry import Budget
from worker.sites.client import FinalResponse, SiteClient, with_retries
from worker.sites.errors import SiteError
from worker.sites.file_names import clean_name, extension_problem, name_of_disposition
from worker.sites.repo_list import key_url, line_error
from worker.sites.types import ModelFile, RepoLine
from worker.stop import Stop


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server: the name and the bytes that its headers give."""

    name: str | None
    size: int | None


def resolve(line: RepoLine, client: SiteClient, stop: Stop, allow_pickle: bool) -> ModelFile:
    """Look up a line of a host that MODEL_HOSTS names. Raise WorkerError that quotes the line."""
    remote = probe_file(line.url, line, client, stop)
    last = unquote(urlsplit(line.url).path.rpartition("/")[2])
    try:
        published = clean_name(remote.name if extension_problem(last, allow_pickle) and remote.name else last)
    except ValueError as error:
        raise line_error(line, Code.DOWNLOAD_FAILED, f"the file's name {error}; name it with `as`") from None
    filename = line.filename or published
    problem = extension_problem(filename, allow_pickle)
    if problem or line.folder is None:
        code, what = problem or (Code.INVALID_REPO_LIST, "put its type before the link")
        raise line_error(line, code, what)
    return ModelFile(
        identity=f"http:{key_url(line.url)}",
        folder=line.folder,
        filename=filename,
        url=line.url,
        line=line,
        size=remote.size,
        aliases=() if published == filename else (published,),
        published=False,
    )


def probe_file(url: str, line: RepoLine, client: SiteClient, stop: Stop) -> RemoteFile:
    """Request the first byte of a file, to learn its name and size.

    Raises:
        WorkerError: the file cannot be had; quotes the line.
    """
    with probe(url, line, client, stop).response as response:
        name = _name(response.headers, response.url)
        return RemoteFile(name, size_of(response.status_code, response.headers))


def probe(
    url: str,
    line: RepoLine,
    client: SiteClient,
    stop: Stop,
    until: Callable[[requests.Response], bool] = lambda response: False,
) -> FinalResponse:
    """Follow a link for one byte, with retries. Raise WorkerError that quotes the line."""
    try:
        return with_retries(lambda: client.follow(url, line, (0, 0), until=until), Budget(client.retry), stop)
    except SiteError as error:
        raise line_error(line, error.code, error.what, error.hint, {"status": error.status}) from None


def size_of(status: int, headers: CaseInsensitiveDict[str]) -> int | None:
    """Return the bytes of the whole file: a Content-Range's total, or a 200's Content-Length; None without either."""
    if status == 206:
        match = re.fullmatch(r"bytes [0-9]+-[0-9]+/([0-9]+)", headers.get("Content-Range", "").strip())
        return byte_count(match[1]) if match else None
    return byte_count(headers.get("Content-Length", ""))


def byte_count(text: str) -> int | None:
    """Return a header's number of bytes; None for anything else, also for what else Python counts as digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _name(headers: CaseInsensitiveDict[str], url: str) -> str | None:
    """Return the storage host's name for the file; signed links carry the same header in their query."""
    query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    for text in (
        headers.get("Content-Disposition"),
        query.get("response-content-disposition"),
        query.get("b2contentdisposition"),
    ):
        name = name_of_disposition(text) if text else None
        if name:
            return name
    return None
