"""Errors from the answers of sites and storage hosts: one table from HTTP status to error code. Pure.

Civitai's rows follow its source (civitai/civitai@ebed661, ``pages/api/download/models/[modelVersionId].ts``).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from worker.errors import Code
from worker.net.answers import HttpAnswer
from worker.net.redact import plain
from worker.net.retry import RetryReason

SITE_NAMES = {"civitai": "Civitai", "hf": "Hugging Face", "http": "the host"}
TOKEN_NAMES = {"civitai": "CIVITAI_TOKEN", "hf": "HF_TOKEN"}
NOT_FILES = ("text/html", "application/json", "application/xhtml", "application/xml", "text/xml")


class SiteError(Exception):
    """A request without the wanted answer; ``retry_reason`` decides if and when it is sent again."""

    def __init__(
        self,
        code: Code,
        what: str,
        retry_reason: RetryReason = RetryReason.NEVER,
        *,
        hint: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what)
        self.code, self.what, self.retry_reason, self.hint = code, what, retry_reason, hint
        self.status, self.retry_after_s = status, retry_after_s


def is_login(url: str) -> bool:
    """Return True if an address of the site is its login page, where it sends browsers that ask for a gated file."""
    return urlsplit(url).path.rstrip("/").endswith("/login") or "reason=download-auth" in url


def login_error(site: str) -> SiteError:
    """Return the error of a redirect to the login page."""
    return SiteError(
        Code.MODEL_AUTH, f"{SITE_NAMES[site]} wants a login for this file", hint=_auth_hint(site, False), status=302
    )


def site_error(site: str, answer: HttpAnswer) -> SiteError:
    """Return the error of a site's own answer that is neither a redirect nor a file.

    Args:
        site: ``civitai``, ``hf`` or ``http``.
        answer: any status; 200 and 206 mean that the body was no file.
    """
    status = answer.status
    if status in _OWN_RULES:
        return _OWN_RULES[status](site, answer)
    what, code, reason = f"answered {status}", Code.DOWNLOAD_FAILED, RetryReason.NEVER
    if status == 404:
        what, code = "has no such file", Code.MODEL_NOT_FOUND
        reason = RetryReason.NOT_FOUND if site == "civitai" else RetryReason.NEVER
    elif status == 410:
        what, code = "has archived this file", Code.MODEL_NOT_FOUND
    elif status == 451:
        what, code = "blocks the country of this data centre", Code.MODEL_REGION_BLOCKED
    elif status >= 500 or status == 408:
        reason = RetryReason.SERVER
    return SiteError(code, f"{SITE_NAMES[site]} {what}{_quoted(answer)}", reason, status=status)


def storage_error(answer: HttpAnswer) -> SiteError:
    """Return the error of an answer of the storage host that the site's signed link leads to."""
    status, quote = answer.status, _quoted(answer)
    if status in (401, 403, 410) or (status == 400 and b"expired" in answer.body[:2048].lower()):
        what = f"the storage host refused its signed link ({status}{quote})"
        return SiteError(Code.DOWNLOAD_FAILED, what, RetryReason.EXPIRED, status=status)
    if status == 404:
        what = f"the storage host does not have the file any more{quote}"
        return SiteError(Code.MODEL_NOT_FOUND, what, RetryReason.NOT_FOUND, status=status)
    if status == 429:
        return _rate_limited("http", answer)
    if status in (200, 206):
        return _not_a_file("http", answer)
    reason = RetryReason.SERVER if status >= 500 or status == 408 else RetryReason.NEVER
    return SiteError(Code.DOWNLOAD_FAILED, f"the storage host answered {status}{quote}", reason, status=status)


def _rate_limited(site: str, answer: HttpAnswer) -> SiteError:
    after = answer.retry_after_s
    wait = f" and asks to wait {after:.0f} s" if after else ""
    what = f"{SITE_NAMES[site]} limits how much this account or address may download{wait}{_quoted(answer)}"
    return SiteError(Code.MODEL_RATE_LIMITED, what, RetryReason.RATE, status=429, retry_after_s=after)


def _quoted(answer: HttpAnswer) -> str:
    return f": “{answer.message}”" if answer.message else ""


def _auth_hint(site: str, with_token: bool) -> str:
    variable = TOKEN_NAMES.get(site)
    if variable is None:
        return "Use a host that serves the file without a login, or add token=… to the link."
    do = "it is wrong, expired or revoked; make a new one" if with_token else "make one in your account's settings"
    return f"Set {variable} on the endpoint to a valid token ({do})."


def _unauthorized(site: str, answer: HttpAnswer) -> SiteError:
    if "disabled download" in answer.body[:4096].decode(errors="replace").lower():
        what = f"the creator has disabled downloads of this file{_quoted(answer)}"
        return SiteError(Code.MODEL_FORBIDDEN, what, hint="Choose another file; no token opens this one.", status=401)
    verb = "does not accept the token" if answer.with_token else "wants a token"
    what = f"{SITE_NAMES[site]} {verb} for this file{_quoted(answer)}"
    return SiteError(Code.MODEL_AUTH, what, hint=_auth_hint(site, answer.with_token), status=401)


def _forbidden(site: str, answer: HttpAnswer) -> SiteError:
    name, deadline = SITE_NAMES[site], answer.json.get("deadline")
    if deadline or "early access" in answer.message.lower():
        until = f" until {plain(str(deadline), 40)}" if deadline else ""
        what = f"this file is in early access{until}"
        return SiteError(Code.MODEL_FORBIDDEN, what, hint="Buy access on the model's page, or wait.", status=403)
    if answer.is_page:
        what = f"{name} refused with a web page (403 {answer.content_type or 'without a type'}), as its firewall does"
        hint = "Send the job again later. If it keeps failing, this data centre's addresses may be blocked."
        return SiteError(Code.MODEL_FORBIDDEN, what, hint=hint, status=403)
    kind = "" if answer.message else f" (403 {answer.content_type or 'without a body type'})"
    return SiteError(Code.MODEL_FORBIDDEN, f"{name} denies access to this file{kind}{_quoted(answer)}", status=403)


def _not_a_file(site: str, answer: HttpAnswer) -> SiteError:
    name = SITE_NAMES[site]
    if answer.is_page:
        text = answer.body[:4096].decode(errors="replace").lower()
        if any(word in text for word in ("login", "log in", "sign in", "signin")):
            what = f"{name} sent its login page instead of the file"
            return SiteError(Code.MODEL_AUTH, what, hint=_auth_hint(site, answer.with_token), status=answer.status)
        return SiteError(Code.DOWNLOAD_FAILED, f"{name} sent a web page instead of the file", status=answer.status)
    kind = answer.content_type or "something else"
    return SiteError(
        Code.DOWNLOAD_FAILED, f"{name} sent {kind} instead of the file{_quoted(answer)}", status=answer.status
    )


_OWN_RULES = {200: _not_a_file, 206: _not_a_file, 401: _unauthorized, 403: _forbidden, 429: _rate_limited}
