"""One thread's way to the model sites: which address may be asked, what goes along, and what came back.

Redirects are followed by hand. Each hop is https and reaches a public address; the token goes to the site's own hosts
only, so a storage host never sees it. What the operator configured (CIVITAI_URL, HF_URL, MODEL_HOSTS) may be any
address, and a configured loopback server may send us on to other loopback servers; a public site never may.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests

from worker.errors import Code
from worker.net.answers import HttpAnswer
from worker.net.connections import NETWORK_ERRORS, AllowedPeers, BlockedAddressError, Sockets, allows, new_session
from worker.net.hosts import DEFAULT_CIVITAI, DEFAULT_HF, is_ip, is_loopback, is_named, origin, public_site
from worker.net.redact import redact_url
from worker.net.retry import Budget, Retry, RetryReason
from worker.settings import Settings
from worker.sites.errors import NOT_FILES, SiteError, is_login, login_error, site_error, storage_error
from worker.sites.types import RepoLine
from worker.stop import Stop

T = TypeVar("T")

MAX_HOPS = 5
MAX_JSON_BYTES = 8 << 20
BODY_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Sites:
    """The settings that decide whose an address is and which token it gets."""

    civitai_url: str = DEFAULT_CIVITAI
    hf_url: str = DEFAULT_HF
    model_hosts: tuple[str, ...] = ()
    civitai_token: str | None = None
    hf_token: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Sites:
        """The five settings that count here."""
        return cls(
            settings.civitai_url, settings.hf_url, settings.model_hosts, settings.civitai_token, settings.hf_token
        )

    def owner(self, url: str) -> str | None:
        """``civitai``, ``hf`` or ``http`` when the address belongs to that site itself; None for anybody else's."""
        if origin(url) == origin(self.civitai_url):
            return "civitai"
        if origin(url) == origin(self.hf_url):
            return "hf"
        parts = urlsplit(url)
        site = public_site(parts.hostname or "")
        if site and parts.scheme == "https" and parts.port in (None, 443):
            return site
        return "http" if is_named(self.model_hosts, parts) else None

    def token(self, url: str, line: RepoLine) -> str | None:
        """The token that goes to this address with this line: only to the line's own site, only over https or loopback.

        Raises:
            Refused: MODEL_AUTH, the token holds characters that a header can not (its value is not shown).
        """
        parts = urlsplit(url)
        if self.owner(url) != line.site or not (parts.scheme == "https" or is_loopback(parts.hostname or "")):
            return None
        own = {"civitai": self.civitai_token, "hf": self.hf_token}.get(line.site)
        token = (line.token or own or "").strip()
        if token and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise SiteError(Code.MODEL_AUTH, "the token holds characters that a token can not have")
        return token or None

    def peers(self, url: str, base: str) -> AllowedPeers:
        """Whom a connection to ``url`` may reach, when ``base`` is where its chain of redirects began.

        Raises:
            Refused: the address may not be asked at all.
        """
        parts, start = urlsplit(url), urlsplit(base)
        host = parts.hostname or ""
        if parts.username is not None:
            raise _blocked(f"{redact_url(base)} redirects to an address with a user name in it")
        if self._configured(base):
            if origin(url) == origin(base):
                return AllowedPeers.ANY
            if is_loopback(start.hostname or "") and (parts.scheme == "https" or is_loopback(host)):
                return AllowedPeers.LOOPBACK
        if parts.scheme != "https":
            raise _blocked(f"{redact_url(base)} redirects to {parts.scheme or 'no'}://, and only https is followed")
        if is_ip(host) and not _public_digits(host):
            raise _blocked(f"{redact_url(base)} redirects to {host}, which is not a public address")
        return AllowedPeers.PUBLIC

    def _configured(self, url: str) -> bool:
        """Whether the operator named this server; the public sites' defaults do not count."""
        named = {origin(value) for value in (self.civitai_url, self.hf_url)}
        named -= {origin(DEFAULT_CIVITAI), origin(DEFAULT_HF)}
        return origin(url) in named or is_named(self.model_hosts, urlsplit(url))


def _public_digits(host: str) -> bool:
    try:
        return allows(AllowedPeers.PUBLIC, host)
    except ValueError:
        return True  # an odd spelling of v4: the connected socket's address decides


def _blocked(what: str) -> SiteError:
    return SiteError(Code.DOWNLOAD_FAILED, what, hint="The link is broken or hostile; use another.")


def network_error(error: BaseException) -> SiteError:
    """A failure below HTTP as a refusal that may be tried again; the address in its text is left out."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return SiteError(Code.DOWNLOAD_FAILED, "the host's TLS certificate can not be verified")
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return SiteError(Code.DOWNLOAD_FAILED, "the transfer stalled: no byte came in time", RetryReason.SERVER)
    if "IncompleteRead" in str(error):
        return SiteError(
            Code.DOWNLOAD_FAILED, "the connection was closed before the file was whole", RetryReason.SERVER
        )
    return SiteError(Code.DOWNLOAD_FAILED, f"the connection failed ({type(error).__name__})", RetryReason.SERVER)


def persistently(attempt: Callable[[], T], budget: Budget, stop: Stop) -> T:
    """What ``attempt`` brings, tried again as ``budget`` allows.

    Raises:
        Refused: the last attempt's, a failure of the network included.
    """
    while True:
        try:
            return attempt()
        except NETWORK_ERRORS as error:
            refused = network_error(error)
        except SiteError as error:
            refused = error
        delay = budget.delay_s(refused.again, refused.retry_after_s)
        if delay is None:
            raise refused
        stop.sleep(delay)


@dataclass
class Reached:
    """The answer at the end of a chain of redirects: a file's bytes to come, or the site's metadata headers."""

    response: requests.Response
    url: str
    from_site: bool
    """Whether the site itself answered, not a storage host."""


class SiteClient:
    """One thread's sessions. Close it in the thread that used it.

    Args:
        sites: whose addresses are whose.
        retry: timeouts and delays.
        sockets: the registry through which another thread can end this one's reads.
    """

    def __init__(self, sites: Sites, retry: Retry, sockets: Sockets) -> None:
        self.sites, self.retry, self._sockets = sites, retry, sockets
        self._sessions: dict[AllowedPeers, requests.Session] = {}

    def close(self) -> None:
        """Close all kept-alive connections."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def get(self, url: str, line: RepoLine, base: str, span: tuple[int, int] | None = None) -> requests.Response:
        """One GET, no redirect followed, body not read. ``span`` is first and last byte (inclusive) of a Range.

        Raises:
            Refused: the address may not be asked.
            requests.RequestException: the network failed.
        """
        peers = self.sites.peers(url, base)
        token = self.sites.token(url, line)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if span:
            headers["Range"] = f"bytes={span[0]}-{span[1]}"
        if peers not in self._sessions:
            self._sessions[peers] = new_session(peers, self._sockets)
        timeout = (self.retry.connect_s, self.retry.read_s)
        try:
            return self._sessions[peers].get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout)
        except BlockedAddressError as error:
            raise _blocked(str(error)) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
            raise _blocked(f"{redact_url(base)} redirects to an address that can not be read") from None

    def follow(
        self,
        url: str,
        line: RepoLine,
        span: tuple[int, int] | None = None,
        enough: Callable[[requests.Response], bool] = lambda response: False,
    ) -> Reached:
        """GET ``url`` and follow its redirects until a file's bytes come, or until an answer is ``enough``.

        Raises:
            Refused: any other answer, in the contract's words; the response is closed then.
        """
        base = url
        for _ in range(MAX_HOPS + 1):
            response = self.get(url, line, base, span)
            from_site = self.sites.owner(url) == line.site
            location = response.headers.get("Location")
            if enough(response):
                return Reached(response, url, from_site)
            if response.status_code not in (301, 302, 303, 307, 308) or not location:
                self.check_file(response, url, line)
                return Reached(response, url, from_site)
            response.close()
            url = _next_hop(url, location)
            if is_login(url, self.sites.owner(url) == line.site):
                raise login_error(line.site)
        raise SiteError(Code.DOWNLOAD_FAILED, f"{redact_url(base)} redirects more than {MAX_HOPS} times")

    def check_file(self, response: requests.Response, url: str, line: RepoLine) -> None:
        """Pass when the response's body is a file's; otherwise close it and raise :class:`SiteError`."""
        content_type = response.headers.get("Content-Type", "").lower()
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if response.status_code in (200, 206) and not content_type.startswith(NOT_FILES):
            if encoding in ("", "identity"):
                return
            response.close()
            raise SiteError(Code.DOWNLOAD_FAILED, f"the host sent the file {encoding}-encoded, though asked not to")
        answer = read_answer(response)
        raise site_error(line.site, answer) if self.sites.owner(url) == line.site else storage_error(answer)

    def json(self, url: str, line: RepoLine, stop: Stop, budget: Budget) -> dict[str, Any]:
        """A site's metadata as a JSON object, tried again as ``budget`` allows.

        Raises:
            Refused: no such metadata, or none to be had now.
        """
        return persistently(lambda: self._json_once(url, line), budget, stop)

    def _json_once(self, url: str, line: RepoLine) -> dict[str, Any]:
        base = url
        for _ in range(MAX_HOPS + 1):
            with self.get(url, line, base) as response:
                location = response.headers.get("Location")
                if response.status_code == 200:
                    return _json_body(response)
                if response.status_code not in (301, 302, 303, 307, 308) or not location:
                    raise site_error(line.site, read_answer(response))
                url = _next_hop(url, location)
        raise SiteError(Code.DOWNLOAD_FAILED, f"{redact_url(base)} redirects more than {MAX_HOPS} times")


def read_answer(response: requests.Response) -> HttpAnswer:
    """The parts of a response that explain a refusal; closes it."""
    body = b""
    with response, contextlib.suppress(*NETWORK_ERRORS):  # the status alone must do then
        body = next(response.iter_content(BODY_HEAD_BYTES), b"")
    with_token = "Authorization" in response.request.headers
    return HttpAnswer(response.status_code, response.headers, body, with_token)


def _next_hop(url: str, location: str) -> str:
    """Where a Location header leads; HTTP libraries hand it over as latin-1 while servers send UTF-8."""
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        following = urljoin(url, location)
        origin(following)
    except ValueError:
        raise _blocked(f"{redact_url(url)} redirects to an address that can not be read") from None
    return following


def _json_body(response: requests.Response) -> dict[str, Any]:
    body = b""
    for chunk in response.iter_content(1 << 16):
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise SiteError(Code.DOWNLOAD_FAILED, "the site's metadata is larger than 8 MiB", RetryReason.SERVER)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise SiteError(Code.DOWNLOAD_FAILED, "the site's metadata is not JSON", RetryReason.SERVER)
    return value
