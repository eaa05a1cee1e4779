"""The parser of ``repo_list``: text in, lines with normalised links out, or one error with every bad line. Pure.

A line is ``[type] <link> [as <filename>]``. A ``#`` at the start of a line or after a space begins a comment, also
inside a name after ``as``; a ``#`` without a space before it belongs to the link (a fragment, which is dropped) or
to the name. The name runs to the end of the line and may be put in double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from worker.errors import Code, WorkerError
from worker.net.hosts import DEFAULT_CIVITAI, DEFAULT_HF, is_ip, is_loopback, is_named, port_of, public_site
from worker.net.redact import plain, redact
from worker.sites.file_names import extension_problem, name_problem
from worker.sites.types import TYPE_FOLDERS, RepoLine

MAX_LINES = 500
MAX_LINE_BYTES = 2048
TYPE_WORDS = ", ".join(TYPE_FOLDERS)
CHOICE_FIELDS = ("type", "format", "size", "fp", "quantType", "fileId")
"""Query fields with which a Civitai download link chooses a file of its version."""

_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060\u200e\u200f\u00ad"))
_SCHEMELESS = re.compile(r"(?i)(www\.)?(civitai\.(com|red|green)|huggingface\.co|hf\.co)/")
_TOKEN = re.compile(r"(?i)([?&])token=[^&\s#]*")
_NO_FIELD = re.compile(r"([?&])&+")
_NO_FIELDS = re.compile(r"[?&]+(?=\s|$)")
_SECRET_FIELD = re.compile(r"(?i)token|api[_-]?key|x-amz-.*|signature|sig|key-pair-id|policy|expires|awsaccesskeyid")
_ARCHIVES = ("civitaiarchive.com", "civarchive.com", "civitai-archive.com")
_SIMPLE = re.compile(r"(?:([A-Za-z]+) )?https://civitai\.com/api/download/models/([0-9]{1,12})")
"""The usual line, without anything to normalise, refuse or hide; hundreds of them take a few milliseconds."""
_AS = re.compile(r"(?i)^as\s+(.+)$")


@dataclass(frozen=True)
class CivitaiLink:
    """The contents of a Civitai link: a version, or a model (its newest version), and the fields that choose a file."""

    model: int | None
    version: int | None
    choice: dict[str, str]


class _LineError(Exception):
    def __init__(self, problem: str, code: Code = Code.INVALID_REPO_LIST) -> None:
        super().__init__(problem)
        self.code = code


def parse_repo_list(value: Any, *, hosts: Sequence[str] = (), allow_pickle: bool = False) -> list[RepoLine]:
    """Read a job's ``repo_list``, in order, equal lines once.

    Args:
        value: text of lines, or a list of texts.
        hosts: further hosts that links may name (MODEL_HOSTS).
        allow_pickle: accept names of files that can run code when loaded (ALLOW_PICKLE).

    Raises:
        WorkerError: INVALID_REPO_LIST (MODEL_UNSAFE for a pickle's name); quotes the first bad line, and has every bad
            line in ``details["lines"]``.
    """
    lines: dict[str, RepoLine] = {}
    bad: list[tuple[int, str, _LineError]] = []
    count = 0
    for number, raw in enumerate(_lines(value), 1):
        text = _without_comment(raw)
        if not text:
            continue
        count += 1
        if count > MAX_LINES:
            bad.append((number, text, _LineError(f"the list is too long: a repo_list takes {MAX_LINES} models")))
            break
        try:
            line = _simple_line(number, text) or _parse_line(number, text, hosts, allow_pickle)
        except _LineError as problem:
            bad.append((number, text, problem))
        else:
            lines.setdefault(line.key, line)
    if bad:
        raise _bad_lines_error(bad)
    return list(lines.values())


def line_error(
    line: RepoLine, code: Code, what: str, hint: str | None = None, details: dict[str, Any] | None = None
) -> WorkerError:
    """Return the error of a valid line whose file cannot be had: the line with its number, then ``what``."""
    facts = {"line": line.number, "text": line.text, **(details or {})}
    return WorkerError(code, f"repo_list line {line.number} (`{line.text}`): {what}", hint, details=facts)


def read_civitai(url: str) -> CivitaiLink:
    """Parse a Civitai link that :func:`parse_repo_list` has normalised."""
    parts = urlsplit(url)
    choice = dict(parse_qsl(parts.query))
    number = int(parts.path.rpartition("/")[2])
    if parts.path.startswith("/models/"):
        return CivitaiLink(number, None, {})
    return CivitaiLink(None, number, choice)


def key_url(url: str) -> str:
    """Return what identifies a file: ``url`` without query fields that are secret or change with each signing."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query) if not _SECRET_FIELD.fullmatch(name)]
    return parts._replace(query=urlencode(sorted(kept)), fragment="").geturl()


def _lines(value: Any) -> list[str]:
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise WorkerError(Code.INVALID_REPO_LIST, "repo_list must be text, one model a line, or a list of such lines")
    return [line for text in texts for line in (text.splitlines() or [""])]


def _without_comment(raw: str) -> str:
    """Remove invisible characters (BOM, zero-width), spaces at both ends and the comment."""
    text = raw.translate(_INVISIBLE).strip()
    return "" if text.startswith("#") else re.split(r"\s#", text, maxsplit=1)[0].rstrip()


def _without_secrets(text: str) -> str:
    text = redact(text)
    if "?" in text or "&" in text:
        text = _NO_FIELDS.sub("", _NO_FIELD.sub(r"\1", _TOKEN.sub(r"\1", text)))
    return plain(text, 300)


def _bad_lines_error(bad: list[tuple[int, str, _LineError]]) -> WorkerError:
    number, text, problem = bad[0]
    more = f" (and {len(bad) - 1} more, see details)" if len(bad) > 1 else ""
    lines = [{"number": n, "text": _without_secrets(t), "problem": redact(str(p))} for n, t, p in bad]
    what = f"repo_list line {number} (`{_without_secrets(text)}`): {redact(str(problem))}{more}"
    return WorkerError(problem.code, what, details={"lines": lines})


def _simple_line(number: int, text: str) -> RepoLine | None:
    """Return what :func:`_parse_line` would for a line of the usual form, faster; None for any other line."""
    match = _SIMPLE.fullmatch(text)
    if not match:
        return None
    folder = TYPE_FOLDERS.get(match[1].lower()) if match[1] else None
    if match[1] and not folder:
        return None
    url = f"{DEFAULT_CIVITAI}/api/download/models/{int(match[2])}"
    return RepoLine(number, text, f"{folder or '?'} {url}", "civitai", url, folder, None)


def _parse_line(number: int, text: str, hosts: Sequence[str], allow_pickle: bool) -> RepoLine:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _LineError("the line has half of a surrogate pair, which is not valid Unicode text") from None
    if size > MAX_LINE_BYTES:
        raise _LineError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    word, link, rest = _split_line(text)
    folder = _folder(word)
    filename = _filename(rest, allow_pickle)
    parts, token = _parse_link(link, hosts)
    site = public_site(parts.hostname or "")
    if site == "civitai":
        url = _civitai_url(parts)
    elif site == "hf":
        url = _hf_url(parts)
    else:
        site, url = "http", _direct_url(parts)
    if site != "civitai":
        _check_direct(url, folder, filename, allow_pickle)
    name = f" as {filename}" if filename else ""
    key = f"{folder or '?'} {key_url(url)}{name}"
    quoted = text if token is None else text.replace(token, "")
    return RepoLine(number, _without_secrets(quoted), key, site, url, folder, filename, token)


def _split_line(text: str) -> tuple[str | None, str, str]:
    """Return (type word or None, link, the rest)."""
    first, rest = _split_word(text)
    if _is_link(first):
        return None, first, rest
    second, rest = _split_word(rest)
    if not second and re.fullmatch(r"\d+", first):
        raise _LineError(
            f"a bare number may be a model or a version; write https://civitai.com/models/{first} "
            f"or https://civitai.com/api/download/models/{first}"
        )
    if _is_link(second):
        return first, second, rest
    if first.lower() in TYPE_FOLDERS:
        raise _LineError(
            f"no link follows the type word; write `{first} https://civitai.com/api/download/models/<versionId>`"
        )
    raise _LineError("the line must be `[type] <link> [as <filename>]`, and the link must start with https://")


def _split_word(text: str) -> tuple[str, str]:
    """Return the first word and the rest, whose spaces stay: a file name may have two in a row."""
    pieces = text.split(None, 1)
    return (pieces[0], pieces[1]) if len(pieces) == 2 else (text, "")


def _is_link(word: str) -> bool:
    return "://" in word or bool(_SCHEMELESS.match(word))


def _folder(word: str | None) -> str | None:
    if word is None:
        return None
    folder = TYPE_FOLDERS.get(word.lower().rstrip(":"))
    if folder is None:
        raise _LineError(f"unknown type word `{plain(word, 40)}`; known are {TYPE_WORDS}")
    return folder


def _filename(rest: str, allow_pickle: bool) -> str | None:
    if not rest:
        return None
    match = _AS.match(rest)
    if not match:
        if rest.lower() in TYPE_FOLDERS:
            raise _LineError(f"the type word goes before the link: `{rest} <link>`")
        raise _LineError(f"only `as <filename>` may follow the link, not `{plain(rest, 60)}`; write one model a line")
    name = match[1]
    if len(name) > 2 and name[0] == name[-1] == '"':
        name = name[1:-1]
    problem = name_problem(name)
    if problem:
        raise _LineError(problem)
    unaccepted = extension_problem(name, allow_pickle)
    if unaccepted:
        raise _LineError(f"the name after `as`: {unaccepted[1]}", unaccepted[0])
    return name


def _parse_link(link: str, hosts: Sequence[str]) -> tuple[SplitResult, str | None]:
    """Return the parts of a link to an allowed host, https and without fragment, and the token pasted into it."""
    if _SCHEMELESS.match(link):
        link = f"https://{link}"
    try:
        parts = urlsplit(link)
        port = port_of(parts)
    except ValueError:
        raise _LineError("the link cannot be read") from None
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host or "\\" in link:
        raise _LineError("the link must start with https://")
    if parts.username is not None or parts.password is not None:
        raise _LineError("the link must not contain a user name or password; set CIVITAI_TOKEN or HF_TOKEN instead")
    query = parse_qsl(parts.query, keep_blank_values=True)
    token = next((value for name, value in query if name.lower() == "token" and value), None)
    kept = urlencode([(name, value) for name, value in query if name.lower() != "token"])
    parts = parts._replace(query=kept, fragment="")
    if public_site(host):
        if port not in (80, 443):
            raise _LineError(f"links to {host} have no port; remove `:{port}`")
        return parts._replace(scheme="https", netloc=host), token
    if is_named(hosts, parts):
        if parts.scheme == "http" and not is_loopback(host):
            raise _LineError("the link must start with https://")
        return parts, token
    raise _LineError(_host_problem(host))


def _host_problem(host: str) -> str:
    if host.removeprefix("www.") in _ARCHIVES:
        return f"{host} is an archive's page, not a download; give a civitai.com or huggingface.co link"
    if is_ip(host):
        return "links need a host name, not an IP address"
    name = plain(host, 80)
    return f"links to {name} are not allowed; use civitai.com or huggingface.co, or name the host in MODEL_HOSTS"


def _civitai_url(parts: SplitResult) -> str:
    query = dict(parse_qsl(parts.query))
    download = re.fullmatch(r"/api/download/models/(\d{1,12})/?", parts.path)
    if download:
        choice = sorted((name, value) for name, value in query.items() if name in CHOICE_FIELDS)
        return _version_url(download[1], choice)
    page = re.fullmatch(r"/models/(\d{1,12})(/[^/]*)?/?", parts.path)
    if not page:
        raise _LineError(
            "this civitai page is not a model; copy the link of the model's page (/models/<id>) or of its download "
            "button (/api/download/models/<versionId>)"
        )
    version = query.get("modelVersionId") or query.get("version")
    if version is None:
        return f"{DEFAULT_CIVITAI}/models/{int(page[1])}"
    if not re.fullmatch(r"\d{1,12}", version):
        raise _LineError("modelVersionId in the link must be a number")
    return _version_url(version, [])


def _version_url(version: str, choice: list[tuple[str, str]]) -> str:
    if any(name == "fileId" and not re.fullmatch(r"\d{1,12}", value) for name, value in choice):
        raise _LineError("fileId in the link must be a number")
    choice = [(name, str(int(value)) if name == "fileId" else value) for name, value in choice]
    return f"{DEFAULT_CIVITAI}/api/download/models/{int(version)}" + (f"?{urlencode(choice)}" if choice else "")


def _hf_url(parts: SplitResult) -> str:
    match = re.fullmatch(r"/((?:datasets/|spaces/)?[^/]+(?:/[^/]+)?)/(?:resolve|blob)/([^/]+)/(.+)", parts.path)
    pieces = [unquote(piece) for piece in match.groups()] if match else []
    names = [name for piece in pieces for name in piece.split("/")]
    if not match or any(name in ("", ".", "..") for name in names):
        raise _LineError(
            "a huggingface.co link must name one file: https://huggingface.co/<repo>/resolve/<revision>/<path>"
        )
    repo, revision, path = pieces
    return f"{DEFAULT_HF}/{quote(repo)}/resolve/{quote(revision, safe='')}/{quote(path)}"


def _direct_url(parts: SplitResult) -> str:
    if parts.path in ("", "/"):
        raise _LineError("the link must name one file")
    return parts._replace(netloc=parts.netloc.lower()).geturl()


def _check_direct(url: str, folder: str | None, filename: str | None, allow_pickle: bool) -> None:
    """Refuse a link to a site without metadata unless it has a type word and the name of a model file."""
    if folder is None:
        raise _LineError(f"only Civitai publishes a model's type; put its type before this link, one of {TYPE_WORDS}")
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    problem = extension_problem(name, allow_pickle)
    if problem and (not filename or problem[0] is Code.MODEL_UNSAFE):
        raise _LineError(problem[1], problem[0])
