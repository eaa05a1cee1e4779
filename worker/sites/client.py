"""HTTP client of the model sites: which addresses it may reach, which token goes along, how answers are read.

Redirects are followed by hand. Each hop is https and reaches a public address; the token goes to the site's own hosts
only, so a storage host never sees it. What the operator configured (CIVITAI_URL, HF_URL, MODEL_HOSTS) may be any
address, and a configured loopback server may redirect to other loopback servers; a public site never may.
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
    """The settings that decide which site an address belongs to, and which token it gets."""

    civitai_url: str = DEFAULT_CIVITAI
    hf_url: str = DEFAULT_HF
    model_hosts: tuple[str, ...] = ()
    civitai_token: str | None = None
    hf_token: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Sites:
        """Take the five settings that count here."""
        return cls(
            settings.civitai_url, settings.hf_url, settings.model_hosts, settings.civitai_token, settings.hf_token
        )

    def site_of(self, url: str) -> str | None:
        """Return the site that an address is of: ``civitai``, ``hf`` or ``http``; None for storage and all others."""
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
        """Return the token for a request: only to the line's own site, only over https or to loopback.

        Raises:
            SiteError: MODEL_AUTH, the token holds characters that a header cannot (its value is not shown).
        """
        parts = urlsplit(url)
        if self.site_of(url) != line.site or not (parts.scheme == "https" or is_loopback(parts.hostname or "")):
            return None
        own = {"civitai": self.civitai_token, "hf": self.hf_token}.get(line.site)
        token = (line.token or own or "").strip()
        if token and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise SiteError(Code.MODEL_AUTH, "the token has characters that no token has; copy it again")
        return token or None

    def peers(self, url: str, base: str) -> AllowedPeers:
        """Return the peers that a connection to ``url`` may reach; its chain of redirects began at ``base``.

        Raises:
            SiteError: no request may go to the address.
        """
        parts, start = urlsplit(url), urlsplit(base)
        host = parts.hostname or ""
        if parts.username is not None:
            raise _blocked(f"{redact_url(base)} redirects to an address with a user name in it")
        if self._is_configured(base):
            if origin(url) == origin(base):
                return AllowedPeers.ANY
            if is_loopback(start.hostname or "") and (parts.scheme == "https" or is_loopback(host)):
                return AllowedPeers.LOOPBACK
        if parts.scheme != "https":
            raise _blocked(f"{redact_url(base)} redirects to {parts.scheme or 'no'}://, and only https is followed")
        if is_ip(host) and not _may_be_public(host):
            raise _blocked(f"{redact_url(base)} redirects to {host}, which is not a public address")
        return AllowedPeers.PUBLIC

    def _is_configured(self, url: str) -> bool:
        """Return True if the operator named this server; the public sites' defaults do not count."""
        named = {origin(value) for value in (self.civitai_url, self.hf_url)}
        named -= {origin(DEFAULT_CIVITAI), origin(DEFAULT_HF)}
        return origin(url) in named or is_named(self.model_hosts, urlsplit(url))


def _may_be_public(host: str) -> bool:
    try:
        return allows(AllowedPeers.PUBLIC, host)
    except ValueError:
        return True  # an odd spelling of an IPv4 address: the check of the connected socket decides


def _blocked(what: str) -> SiteError:
    return SiteError(Code.DOWNLOAD_FAILED, what, hint="The link is broken or hostile; use another one.")


def network_error(error: BaseException) -> SiteError:
    """Turn a failure below HTTP into a SiteError; the address in the failure's text is left out."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return SiteError(Code.DOWNLOAD_FAILED, "the host's TLS certificate cannot be verified")
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return SiteError(Code.DOWNLOAD_FAILED, "the transfer stalled: no byte came in time", RetryReason.SERVER)
    if "IncompleteRead" in str(error):
        return SiteError(
            Code.DOWNLOAD_FAILED, "the connection was closed before the file was whole", RetryReason.SERVER
        )
    return SiteError(Code.DOWNLOAD_FAILED, f"the connection failed ({type(error).__name__})", RetryReason.SERVER)


def with_retries(attempt: Callable[[], T], budget: Budget, stop: Stop) -> T:
    """Return what ``attempt`` returns, with retries as ``budget`` allows.

    Raises:
        SiteError: of the last attempt, a failure of the network included.
    """
    while True:
        try:
            return attempt()
        except NETWORK_ERRORS as error:
            failure = network_error(error)
        except SiteError as error:
            failure = error
        delay = budget.delay_s(failure.retry_reason, failure.retry_after_s)
        if delay is None:
            raise failure
        stop.sleep(delay)


@dataclass
class FinalResponse:
    """The answer at the end of a chain of redirects, and its address; the body is not read yet."""

    response: requests.Response
    url: str


class SiteClient:
    """One thread's HTTP sessions. Close it in the thread that used it.

    Args:
        sites: the sites' addresses and tokens.
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

    def get(self, url: str, line: RepoLine, base: str, byte_range: tuple[int, int] | None = None) -> requests.Response:
        """Send one GET; follow no redirect, read no body. ``byte_range`` is first and last byte, inclusive.

        Raises:
            SiteError: no request may go to the address.
            requests.RequestException: the network failed.
        """
        peers = self.sites.peers(url, base)
        token = self.sites.token(url, line)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if byte_range:
            headers["Range"] = f"bytes={byte_range[0]}-{byte_range[1]}"
        if peers not in self._sessions:
            self._sessions[peers] = new_session(peers, self._sockets)
        timeout = (self.retry.connect_s, self.retry.read_s)
        try:
            return self._sessions[peers].get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout)
        except BlockedAddressError as error:
            raise _blocked(str(error)) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
            raise _blocked(f"{redact_url(base)} redirects to an address that cannot be read") from None

    def follow(
        self,
        url: str,
        line: RepoLine,
        byte_range: tuple[int, int] | None = None,
        until: Callable[[requests.Response], bool] = lambda response: False,
    ) -> FinalResponse:
        """GET ``url`` and follow its redirects to a file, or to the first answer for which ``until`` is True.

        Raises:
            SiteError: any other answer, with its error code; the response is closed then.
        """
        base = url
        for _ in range(MAX_HOPS + 1):
            response = self.get(url, line, base, byte_range)
            location = response.headers.get("Location")
            if until(response):
                return FinalResponse(response, url)
            if response.status_code not in (301, 302, 303, 307, 308) or not location:
                self.check_file(response, url, line)
                return FinalResponse(response, url)
            response.close()
            url = _next_hop(url, location)
            if self.sites.site_of(url) == line.site and is_login(url):
                raise login_error(line.site)
        raise SiteError(Code.DOWNLOAD_FAILED, f"{redact_url(base)} redirects more than {MAX_HOPS} times")

    def check_file(self, response: requests.Response, url: str, line: RepoLine) -> None:
        """Return if the response's body is a file; otherwise close it and raise :class:`SiteError`."""
        content_type = response.headers.get("Content-Type", "").lower()
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if response.status_code in (200, 206) and not content_type.startswith(NOT_FILES):
            if encoding in ("", "identity"):
                return
            response.close()
            raise SiteError(
                Code.DOWNLOAD_FAILED, f"the host sent the file compressed ({encoding}), which this worker cannot use"
            )
        answer = read_answer(response)
        raise site_error(line.site, answer) if self.sites.site_of(url) == line.site else storage_error(answer)

    def json(self, url: str, line: RepoLine, stop: Stop, budget: Budget) -> dict[str, Any]:
        """Return a site's metadata, a JSON object, with retries as ``budget`` allows.

        Raises:
            SiteError: the site has no such metadata, or gives none now.
        """
        return with_retries(lambda: self._json_once(url, line), budget, stop)

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
    """Read the parts of a response that explain a refusal, and close it."""
    body = b""
    with response, contextlib.suppress(*NETWORK_ERRORS):  # a body that breaks off leaves at least the status
        body = next(response.iter_content(BODY_HEAD_BYTES), b"")
    with_token = "Authorization" in response.request.headers
    return HttpAnswer(response.status_code, response.headers, body, with_token)


def _next_hop(url: str, location: str) -> str:
    """Return the address a Location header leads to. HTTP libraries decode it as latin-1; servers send UTF-8."""
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        following = urljoin(url, location)
        origin(following)
    except ValueError:
        raise _blocked(f"{redact_url(url)} redirects to an address that cannot be read") from None
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
