"""What the fake Civitai serves: files and versions whose fields switch their faults, and what came to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Canned:
    """An answer that is sent in place of the usual one."""

    status: int
    body: bytes | dict[str, Any] = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """One request as it came; ``sent`` is how many bytes of body went out."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass(eq=False)
class FakeFile:
    """One file and how it misbehaves; change the fields while the server runs."""

    id: int
    name: str
    data: bytes
    type: str = "Model"
    metadata: dict[str, str] = field(default_factory=lambda: {"format": "SafeTensor", "size": "pruned", "fp": "fp16"})
    primary: bool = True
    sha256: str | None = None
    """What the API publishes."""
    size_kb: float | None = None
    pickle_scan: str | None = "Success"
    virus_scan: str | None = "Success"
    needs_token: bool = False
    disposition: str | None = None
    """The storage's Content-Disposition; by the name when None."""
    answers: list[Canned] = field(default_factory=list)
    """The download route's next answers, one a request, before it behaves."""
    storage_answers: list[Canned] = field(default_factory=list)
    always: Canned | None = None
    """The download route's answer to every request."""
    ignore_range: bool = False
    send_length: bool = True
    send_disposition: bool = True
    content_type: str = "application/octet-stream"
    cut_after: list[int] = field(default_factory=list)
    """The next bodies are cut after so many bytes, one a request."""
    stall_after: list[int] = field(default_factory=list)
    """The next bodies fall silent after so many bytes, one a request."""
    wrong_times: int = 0
    """So many of the next answers that hold the file's first byte carry other bytes."""
    link_requests: int | None = None
    """A signed link works for so many requests only; the one after the first expiry works for good."""
    bytes_per_s: float | None = None
    """Of each connection."""

    def described(self, url: str) -> dict[str, Any]:
        """The file as ``/api/v1/model-versions`` lists it."""
        hashes = {"SHA256": self.sha256.upper()} if self.sha256 else {}
        return {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "sizeKB": len(self.data) / 1024 if self.size_kb is None else self.size_kb,
            "metadata": self.metadata,
            "primary": self.primary,
            "pickleScanResult": self.pickle_scan,
            "virusScanResult": self.virus_scan,
            "hashes": hashes,
            "downloadUrl": url,
        }


@dataclass(eq=False)
class FakeVersion:
    """One version of one model."""

    id: int
    model_id: int
    model: dict[str, Any]
    base_model: str | None
    files: list[FakeFile]
    metadata_answers: list[Canned] = field(default_factory=list)
    metadata_always: Canned | None = None
