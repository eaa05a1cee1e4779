"""Ownership of an address: Civitai, Hugging Face, the operator, or anyone else. Pure.

Hosts are compared as a whole, never by substring or suffix: ``b2.civitai.com`` and ``cdn-lfs.huggingface.co`` are
storage, which answers 400 or 401 to a request with a token.
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
    """Return ``civitai`` or ``hf`` if ``host`` is one of their public hosts (with or without ``www.``), else None."""
    host = host.lower().removeprefix("www.")
    if host in CIVITAI_HOSTS:
        return "civitai"
    return "hf" if host in HF_HOSTS else None


def port_of(parts: SplitResult) -> int:
    """Return the port of an address, or its scheme's default. Raises ValueError for a port that is not a number."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: two addresses that share them are one server."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), port_of(parts)


def is_ip(host: str) -> bool:
    """Return True if ``host`` is a numeric address: IPv4, IPv6, or a spelling that resolvers accept as IPv4."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2].lower()
        return last.isdigit() or (last.startswith("0x") and all(c in "0123456789abcdef" for c in last[2:]))
    return True


def is_loopback(host: str) -> bool:
    """Return True if ``host`` is ``localhost`` or a loopback address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_named(hosts: Sequence[str], parts: SplitResult) -> bool:
    """Return True if ``hosts``, an operator's list such as MODEL_HOSTS, names this address.

    An entry is ``host`` (https, port 443; if it is loopback, any port and http too) or ``host:port``.
    """
    host, port = (parts.hostname or "").lower(), port_of(parts)
    for entry in hosts:
        named = urlsplit(f"//{entry}" if "//" not in entry else entry)
        if (named.hostname or "").lower() != host:
            continue
        if named.port == port or (named.port is None and (port == 443 or is_loopback(host))):
            return True
    return False
