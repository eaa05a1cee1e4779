"""Whose an address is: Civitai's, Hugging Face's, the operator's, or anybody's. Pure.

Hosts are compared whole, never by substring or ending: ``b2.civitai.com`` and ``cdn-lfs.huggingface.co`` are storage,
which answers 400 or 401 when a token comes along.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

CIVITAI_HOSTS = ("civitai.com", "civitai.red", "civitai.green")
HF_HOSTS = ("huggingface.co", "hf.co")
DEFAULT_CIVITAI = "https://civitai.com"
DEFAULT_HF = "https://huggingface.co"


def public_site(host: str) -> str | None:
    """``civitai`` or ``hf`` when ``host`` is one of their own public hosts (with or without ``www.``)."""
    host = host.lower().removeprefix("www.")
    if host in CIVITAI_HOSTS:
        return "civitai"
    return "hf" if host in HF_HOSTS else None


def port_of(parts: SplitResult) -> int:
    """The port of an address, by its scheme when it names none. Raises ValueError for a port that is no number."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what two addresses must share to be one server."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), port_of(parts)


def is_ip(host: str) -> bool:
    """Whether ``host`` is an address in digits: v4, v6, or one of the odd spellings that resolvers take as v4."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2].lower()
        return last.isdigit() or (last.startswith("0x") and all(c in "0123456789abcdef" for c in last[2:]))
    return True


def is_loopback(host: str) -> bool:
    """Whether ``host`` says that it is this machine (``localhost`` or a loopback address)."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_named(hosts: Sequence[str], parts: SplitResult) -> bool:
    """Whether MODEL_HOSTS names this address's host.

    An entry is ``host`` (https, port 443; any port and http too when it is loopback) or ``host:port``.
    """
    host, port = (parts.hostname or "").lower(), port_of(parts)
    for entry in hosts:
        named = urlsplit(f"//{entry}" if "//" not in entry else entry)
        if (named.hostname or "").lower() != host:
            continue
        if named.port == port or (named.port is None and (port == 443 or is_loopback(host))):
            return True
    return False
