"""A link that leads straight to a file, on a host that has no metadata: what its first answer says about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

import requests
from requests.structures import CaseInsensitiveDict

from worker.errors import Code
from worker.net.retry import Budget
from worker.sites.client import Reached, SiteClient, persistently
from worker.sites.errors import SiteError
from worker.sites.file_names import clean_name, extension_problem, name_of_disposition
from worker.sites.repo_list import key_url, line_error
from worker.sites.types import ModelFile, RepoLine
from worker.stop import Stop


@dataclass(frozen=True)
class Found:
    """A file that is there: what its server calls it, and its bytes when the server says."""

    name: str | None
    size: int | None


def resolve(line: RepoLine, client: SiteClient, stop: Stop, allow_pickle: bool) -> ModelFile:
    """Look up a line of a host that MODEL_HOSTS names. Raises WorkerError that quotes the line."""
    found = look(line.url, line, client, stop)
    last = unquote(urlsplit(line.url).path.rpartition("/")[2])
    try:
        published = clean_name(found.name if extension_problem(last, allow_pickle) and found.name else last)
    except ValueError as error:
        raise line_error(line, Code.DOWNLOAD_FAILED, f"the file's name {error}; name it with `as`") from None
    filename = line.filename or published
    refused = extension_problem(filename, allow_pickle)
    if refused or line.folder is None:
        code, what = refused or (Code.INVALID_REPO_LIST, "put its type before the link")
        raise line_error(line, code, what)
    return ModelFile(
        identity=f"http:{key_url(line.url)}",
        folder=line.folder,
        filename=filename,
        url=line.url,
        line=line,
        size=found.size,
        aliases=() if published == filename else (published,),
        published=False,
    )


def look(url: str, line: RepoLine, client: SiteClient, stop: Stop) -> Found:
    """Ask for the first byte of a file, to learn its name and size.

    Raises:
        WorkerError: it can not be had; quotes the line.
    """
    with ask(url, line, client, stop).response as response:
        name = _name(response.headers, response.url)
        return Found(name, size_of(response.status_code, response.headers))


def ask(
    url: str,
    line: RepoLine,
    client: SiteClient,
    stop: Stop,
    enough: Callable[[requests.Response], bool] = lambda response: False,
) -> Reached:
    """Follow a link for one byte, with retries; raise WorkerError that quotes the line."""
    try:
        return persistently(lambda: client.follow(url, line, (0, 0), enough=enough), Budget(client.retry), stop)
    except SiteError as refused:
        raise line_error(line, refused.code, refused.what, refused.hint, {"status": refused.status}) from None


def size_of(status: int, headers: CaseInsensitiveDict[str]) -> int | None:
    """Bytes of the whole file: the total of a Content-Range, or a 200's Content-Length; None when neither says."""
    if status == 206:
        found = re.fullmatch(r"bytes [0-9]+-[0-9]+/([0-9]+)", headers.get("Content-Range", "").strip())
        return whole(found[1]) if found else None
    return whole(headers.get("Content-Length", ""))


def whole(text: str) -> int | None:
    """A number of bytes as a header gives it; None for anything else that Python would call digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _name(headers: CaseInsensitiveDict[str], url: str) -> str | None:
    """What the storage host calls the file; signed links carry the same header in their query."""
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
