"""File names from a server or a caller, made safe as one path component under ``models/``. Pure."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from email.message import Message
from urllib.parse import unquote

from worker.errors import Code
from worker.sites.types import MODEL_EXTENSIONS

SAFE_EXTENSIONS = (".safetensors", ".sft")
"""Always accepted; ``.sft`` is the same format under a shorter name, and ComfyUI lists both."""

MAX_NAME_BYTES = 230
"""Linux takes 255; the rest is for the ``.<fileId>`` that keeps two files of one name apart."""

_WINDOWS_FORBIDDEN = str.maketrans(dict.fromkeys('<>:"|?*', "_"))
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def clean_name(name: str) -> str:
    """Return the name under which a browser would save a server's file: the caller's prompt has that name.

    Only the last component counts. Spaces, brackets, ``$``, ``&`` and all letters stay, since uploaders use them.

    Raises:
        ValueError: nothing usable is left (empty, ``.``, ``..``, a Windows drive).
    """
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    if re.match(r"[A-Za-z]:", last):
        raise ValueError("starts with a Windows drive letter")
    last = "".join(c for c in last if unicodedata.category(c) not in _INVISIBLE)
    last = unicodedata.normalize("NFC", last)  # last: an invisible character would keep an accent from its letter
    last = last.translate(_WINDOWS_FORBIDDEN).lstrip(". ").rstrip(". ")
    if not last:
        raise ValueError("is empty without the characters that file names cannot have")
    return _cap(last)


def _cap(name: str) -> str:
    """Cut ``name`` to MAX_NAME_BYTES of UTF-8 between two characters; keep its extension."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    stem, ending = name, extension(name)
    room = MAX_NAME_BYTES - len(ending.encode())
    if ending:
        stem = name[: -len(ending)]
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + ending


def extension(name: str) -> str:
    """Return the model extension at the end of ``name``, else a short last suffix, else nothing; in lower case."""
    lower = name.lower()
    for ending in MODEL_EXTENSIONS:
        if lower.endswith(ending):
            return ending
    _, dot, suffix = lower.rpartition(".")
    return f".{suffix}" if dot and re.fullmatch(r"[a-z0-9]{1,8}", suffix) else ""


def name_problem(name: str) -> str | None:
    """Return why a caller's own name cannot be used as it is; None when it can. No name is corrected silently."""
    if "/" in name or "\\" in name:
        return "the name after `as` must be a bare file name; its folder comes from the type word"
    try:
        cleaned = clean_name(name)
    except ValueError as error:
        return f"the name after `as` {error}"
    if cleaned == unicodedata.normalize("NFC", name):
        return None
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"the name after `as` is longer than {MAX_NAME_BYTES} bytes"
    return f"the name after `as` has characters that file names cannot have; `{cleaned}` would do"


def extension_problem(name: str, allow_pickle: bool) -> tuple[Code, str] | None:
    """Return why a file of this name is not accepted as a model; None when it is.

    A ``.gguf`` runs no code, but nothing here can check one, so it needs ALLOW_PICKLE as well.
    """
    ending = extension(name)
    if ending in SAFE_EXTENSIONS or (allow_pickle and ending in MODEL_EXTENSIONS):
        return None
    if ending == ".gguf":
        return Code.MODEL_UNSAFE, f"{name} is a .gguf file, which this worker cannot check"
    if ending in MODEL_EXTENSIONS:
        return Code.MODEL_UNSAFE, f"{name} is a {ending} file (a pickle), which can run code when it is loaded"
    kind = f"a {ending} file" if ending else "a file without an extension"
    return Code.INVALID_REPO_LIST, f"{name} is {kind}, not a .safetensors model"


def name_of_disposition(header: str) -> str | None:
    """Return the file name in a Content-Disposition header; None when it has none.

    HTTP libraries decode headers as latin-1, while the storage hosts send raw UTF-8. ``filename*`` wins (RFC 6266).
    """
    with contextlib.suppress(UnicodeError):
        header = header.encode("latin-1").decode("utf-8")
    extended = re.search(r"filename\*\s*=\s*([\w-]*)'[^']*'([^;\s]+)", header, re.IGNORECASE)
    if extended:
        with contextlib.suppress(LookupError, UnicodeError):
            return unquote(extended[2], encoding=extended[1] or "utf-8", errors="strict")
    message = Message()
    message["Content-Disposition"] = " ".join(header.splitlines())
    with contextlib.suppress(LookupError, ValueError):  # the email package raises them for a NUL or an odd charset
        return message.get_filename()
    return None
