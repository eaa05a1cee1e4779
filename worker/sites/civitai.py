"""Civitai links: which file of which version, its name, its folder, its size and hash.

The metadata comes first, and the download then names its ``fileId``: a bare download link follows the account
preferences of the token's owner, and may return another file than the one that the metadata calls primary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from worker.errors import Code
from worker.net.hosts import DEFAULT_CIVITAI
from worker.net.redact import plain
from worker.net.retry import Budget
from worker.sites.civitai_folders import COMPONENT_FILE_TYPES, folder_of
from worker.sites.client import SiteClient
from worker.sites.direct_link import probe_file
from worker.sites.errors import SiteError
from worker.sites.file_names import SAFE_EXTENSIONS, clean_name, extension, extension_problem
from worker.sites.repo_list import TYPE_WORDS, CivitaiLink, line_error, read_civitai
from worker.sites.types import ModelFile, RepoLine
from worker.stop import Stop

SECOND_HOST = "https://civitai.red"
"""It has the models that civitai.com does not show, under the same API (announced April 2026)."""

METADATA_TRIES = 3

Metadata = dict[str, Any]


def resolve(line: RepoLine, client: SiteClient, stop: Stop, allow_pickle: bool) -> ModelFile:
    """Look a Civitai line up.

    Without metadata (the API is down, or has no such version) the name comes from the download's own headers.

    Raises:
        WorkerError: quotes the line.
    """
    link = read_civitai(line.url)
    try:
        version = _metadata(link, line, client, stop)
    except SiteError as error:
        if link.version is None or error.code is Code.MODEL_REGION_BLOCKED:
            raise line_error(line, error.code, error.what, error.hint, {"status": error.status}) from None
        return _without_metadata(link.version, line, client, stop, allow_pickle)
    return _with_metadata(version, link, line, client.sites.civitai_url, allow_pickle)


def _metadata(link: CivitaiLink, line: RepoLine, client: SiteClient, stop: Stop) -> Metadata:
    path = f"models/{link.model}" if link.version is None else f"model-versions/{link.version}"
    base = client.sites.civitai_url
    budget = Budget(client.retry.only(tries=METADATA_TRIES, not_found=False))
    try:
        answer = client.json(f"{base}/api/v1/{path}", line, stop, budget)
    except SiteError as error:
        if error.status != 404 or base != DEFAULT_CIVITAI:
            raise
        answer = client.json(f"{SECOND_HOST}/api/v1/{path}", line, stop, budget)
    if link.version is not None:
        return answer
    versions = _list(answer.get("modelVersions"))
    if not versions:
        raise SiteError(Code.MODEL_NOT_FOUND, "this model has no published version")
    return {**versions[0], "model": {"type": answer.get("type"), "name": answer.get("name")}}


def _with_metadata(version: Metadata, link: CivitaiLink, line: RepoLine, base: str, allow_pickle: bool) -> ModelFile:
    number, file = _positive(version.get("id")) or link.version or 0, _choose_file(version, link, line, allow_pickle)
    file_id = _positive(file.get("id"))
    if not number or not file_id:
        raise line_error(line, Code.DOWNLOAD_FAILED, "Civitai's metadata has no file id")
    published = _published_name(file, number, line)
    problem = extension_problem(published, allow_pickle)
    if problem:
        raise line_error(line, *problem)
    _check_scans(file, line, allow_pickle)
    folder = line.folder or _folder(version, file, line)
    filename = line.filename or published
    aliases = (published, _text(file.get("name")), f"{number}{extension(published)}")
    return ModelFile(
        identity=f"civitai:{number}:{file_id}",
        folder=folder,
        filename=filename,
        url=f"{base}/api/download/models/{number}?fileId={file_id}",
        line=line,
        size=_size(file),
        sha256=_sha256(file),
        aliases=tuple(dict.fromkeys(alias for alias in aliases if alias and alias != filename)),
    )


def _without_metadata(version: int, line: RepoLine, client: SiteClient, stop: Stop, allow_pickle: bool) -> ModelFile:
    query = urlsplit(line.url).query
    url = f"{client.sites.civitai_url}/api/download/models/{version}" + (f"?{query}" if query else "")
    remote = probe_file(url, line, client, stop)
    if line.folder is None:
        what = f"Civitai has no metadata for it now; put its type before the link, one of {TYPE_WORDS}"
        raise line_error(line, Code.INVALID_REPO_LIST, what)
    try:
        published = clean_name(remote.name or line.filename or f"{version}.safetensors")
    except ValueError as error:
        raise line_error(line, Code.DOWNLOAD_FAILED, f"the file's name {error}; name it with `as`") from None
    problem = extension_problem(published, allow_pickle)
    if problem:
        raise line_error(line, *problem)
    choice = dict(parse_qsl(query))
    which = choice.get("fileId") or "-".join(re.sub(r"\W", "", value) for value in choice.values()) or "primary"
    return ModelFile(
        identity=f"civitai:{version}:{which}",
        folder=line.folder,
        filename=line.filename or published,
        url=url,
        line=line,
        size=remote.size,
        aliases=tuple(dict.fromkeys(name for name in (published, f"{version}.safetensors") if name != line.filename)),
        published=False,
    )


def _choose_file(version: Metadata, link: CivitaiLink, line: RepoLine, allow_pickle: bool) -> Metadata:
    """Return the file that the link means: by ``fileId``, else by its fields, then the primary or the only one."""
    files = _list(version.get("files"))
    file_id = link.choice.get("fileId")
    if file_id is not None:
        matching = [file for file in files if str(file.get("id")) == file_id]
    else:
        matching = [file for file in files if _matches(file, link.choice)]
    if not matching:
        what = f"no file of this version fits the link; it has {_listing(files)}"
        raise line_error(line, Code.MODEL_NOT_FOUND, what, "Choose one with ?fileId=<id> in the download link.")
    component = COMPONENT_FILE_TYPES.get(line.folder or "")
    if component and "type" not in link.choice:
        matching = [file for file in matching if file.get("type") in component] or matching
    accepted = [file for file in matching if not extension_problem(_text(file.get("name")), allow_pickle)]
    candidates = accepted or matching
    safe = [file for file in candidates if extension(_text(file.get("name"))) in SAFE_EXTENSIONS]
    for choice in ([file for file in candidates if file.get("primary")], safe, candidates):
        if len(choice) == 1:
            return choice[0]
    what = f"this version has {_listing(candidates)}, and the link does not name one of them"
    raise line_error(line, Code.INVALID_REPO_LIST, what, "Add ?fileId=<id> to the download link.")


def _matches(file: Metadata, choice: dict[str, str]) -> bool:
    """Return True if no field of the link contradicts the file; a field that the file lacks contradicts nothing."""
    metadata = file.get("metadata")
    fields = {**(metadata if isinstance(metadata, dict) else {}), "type": file.get("type")}
    return all(not fields.get(name) or str(fields[name]).lower() == value.lower() for name, value in choice.items())


def _listing(files: Sequence[Metadata]) -> str:
    shown = [f"{plain(_text(file.get('name')), 80)} (fileId={_positive(file.get('id'))})" for file in files[:8]]
    return ", ".join(shown) + (", …" if len(files) > 8 else "") if shown else "no files"


def _published_name(file: Metadata, version: int, line: RepoLine) -> str:
    try:
        return clean_name(_text(file.get("name")) or f"{version}.safetensors")
    except ValueError as error:
        raise line_error(line, Code.DOWNLOAD_FAILED, f"the published file name {error}; name it with `as`") from None


def _folder(version: Metadata, file: Metadata, line: RepoLine) -> str:
    model = version.get("model")
    model_type = _text(model.get("type")) if isinstance(model, dict) else ""
    file_type, base_model = _text(file.get("type")), _text(version.get("baseModel"))
    folder = folder_of(model_type, file_type, base_model)
    if folder is None:
        types = f"{model_type or 'no type'} / {file_type or 'no file type'} / {base_model or 'no base model'}"
        what = (
            f"Civitai lists it as {plain(types, 120)}, which fits no folder; "
            f"put its type before the link, one of {TYPE_WORDS}"
        )
        raise line_error(line, Code.INVALID_REPO_LIST, what)
    return folder


def _check_scans(file: Metadata, line: RepoLine, allow_pickle: bool) -> None:
    """Refuse a file that Civitai's scanners did not pass; ALLOW_PICKLE accepts an unscanned one, never a bad one."""
    for scan in ("pickleScanResult", "virusScanResult"):
        result = file.get(scan)
        if result in (None, "Success") or (allow_pickle and result != "Danger"):
            continue
        hint = "Use another file of the model." if result == "Danger" else None
        what = f"the result of Civitai's {scan.removesuffix('ScanResult')} scan of it is {plain(str(result), 40)}"
        raise line_error(line, Code.MODEL_UNSAFE, what, hint)


def _size(file: Metadata) -> int | None:
    """Return the bytes from sizeKB (bytes / 1024, a float). The uploader's client wrote it, and some are wrong."""
    size = file.get("sizeKB")
    if not isinstance(size, (int, float)) or isinstance(size, bool) or not 0 < size < 1e10:
        return None
    return round(size * 1024)


def _sha256(file: Metadata) -> str | None:
    hashes = file.get("hashes")
    value = _text(hashes.get("SHA256")).lower() if isinstance(hashes, dict) else ""
    return value if re.fullmatch(r"[0-9a-f]{64}", value) else None


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _text(value: Any) -> str:
    """Return a text without unpaired surrogates, which JSON escapes can hold and UTF-8 cannot."""
    return value.encode(errors="ignore").decode() if isinstance(value, str) else ""


def _list(value: Any) -> list[Metadata]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
