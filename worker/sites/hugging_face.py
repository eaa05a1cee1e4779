"""Hugging Face links: the file at one commit, with the size and hash from the Hub's headers.

The Hub's first answer for a large file is a redirect to storage that carries ``X-Linked-Size``, ``X-Linked-ETag`` (the
SHA-256 of an LFS file) and ``X-Repo-Commit`` (huggingface_hub, ``file_download.py``); nothing of the file is read here.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

import requests

from worker.errors import Code
from worker.sites.client import SiteClient
from worker.sites.direct_link import byte_count, probe, size_of
from worker.sites.file_names import clean_name, extension_problem
from worker.sites.repo_list import line_error
from worker.sites.types import ModelFile, RepoLine
from worker.stop import Stop


def resolve(line: RepoLine, client: SiteClient, stop: Stop, allow_pickle: bool) -> ModelFile:
    """Look a Hugging Face line up. Raise WorkerError that quotes the line."""
    repo, revision, path = split(line.url)
    filename = line.filename or _name(path, line)
    problem = extension_problem(filename, allow_pickle)
    if problem or line.folder is None:
        code, what = problem or (Code.INVALID_REPO_LIST, "put its type before the link")
        raise line_error(line, code, what)
    url = f"{client.sites.hf_url}/{quote(repo)}/resolve/{quote(revision, safe='')}/{quote(path)}"
    with probe(url, line, client, stop, until=_has_metadata).response as response:
        headers, status = response.headers, response.status_code
    commit = headers.get("X-Repo-Commit", "")
    commit = commit if re.fullmatch(r"[0-9a-f]{40,64}", commit) else revision
    linked = byte_count(headers.get("X-Linked-Size", ""))
    published = _name(path, line)
    return ModelFile(
        identity=f"hf:{repo}@{commit}:{path}",
        folder=line.folder,
        filename=filename,
        url=f"{client.sites.hf_url}/{quote(repo)}/resolve/{quote(commit, safe='')}/{quote(path)}",
        line=line,
        size=size_of(status, headers) if linked is None and status in (200, 206) else linked,
        sha256=_sha256(headers.get("X-Linked-ETag", "")),
        aliases=() if published == filename else (published,),
    )


def split(url: str) -> tuple[str, str, str]:
    """Return (repository, revision, path) of a link that the parser has normalised."""
    repo, _, rest = urlsplit(url).path.strip("/").partition("/resolve/")
    revision, _, path = rest.partition("/")
    return unquote(repo), unquote(revision), unquote(path)


def _has_metadata(response: requests.Response) -> bool:
    """Return True if a redirect carries the file's metadata; one to a renamed repository does not."""
    return "X-Linked-Size" in response.headers and response.is_redirect


def _name(path: str, line: RepoLine) -> str:
    try:
        return clean_name(path)
    except ValueError as error:
        raise line_error(line, Code.INVALID_REPO_LIST, f"the file's name {error}; name it with `as`") from None


def _sha256(etag: str) -> str | None:
    value = etag.removeprefix("W/").strip('"').lower()
    return value if re.fullmatch(r"[0-9a-f]{64}", value) else None
