"""Every fault that the worker survives, once: what goes wrong, how its job must end, and within which time.

A test says which of them it makes happen with ``@fault("<id>")``; ``conftest.py`` holds both sides to each other, and
``docs/faults.md`` has one row for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.errors import Code

RIGHT = "right answer"
CANCELLED, TIMED_OUT = "CANCELLED", "TIMED_OUT"
"""RunPod's own words for a job that has no answer of ours."""
SAID = "said"
"""The client's own end: the person reads a sentence."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Args:
        id: what a test names it by.
        what: the fault in a few words.
        must: the answer's error code, RIGHT, or RunPod's status.
        within_s: the job's time, start to answer; generous, for a busy machine.
    """

    id: str
    what: str
    must: str
    within_s: float


COMFYUI = "ComfyUI"
SITES = "Civitai's answers"
TRANSFERS = "Downloads on the way"
DISKS = "Disk and volume"
RUNPOD = "RunPod"
INPUT = "Input"
RESULTS = "Results to S3"
ADDRESSES = "Addresses and secrets"
CLIENT = "The client"

AREAS: dict[str, tuple[Fault, ...]] = {
    COMFYUI: (
        Fault("socket-fin", "socket dropped by FIN", RIGHT, 10),
        Fault("socket-rst", "socket dropped by RST", RIGHT, 10),
        Fault("socket-close", "socket dropped by a close frame", RIGHT, 10),
        Fault("events-lost", "every event lost", RIGHT, 10),
        Fault("ends-unheard", "job finishes while the socket is down and refused", RIGHT, 15),
        Fault("history-late", "`/history` late after an error", Code.NODE_FAILED, 15),
        Fault("killed-before", "ComfyUI dies after it took the prompt, before it runs it", RIGHT, 30),
        Fault("killed-during", "ComfyUI dies while it runs the prompt", Code.COMFYUI_DIED, 30),
        Fault("killed-between", "ComfyUI killed between two prompts", RIGHT, 30),
        Fault("dies-twice", "ComfyUI dies in two jobs running", Code.COMFYUI_DIED, 60),
        Fault("hangs", "ComfyUI hangs, deaf to `/interrupt`", Code.TIMEOUT, 30),
        Fault("start-fails", "ComfyUI's start fails twice", Code.COMFYUI_START_FAILED, 60),
        Fault("out-of-memory", "out of memory", Code.OUT_OF_MEMORY, 15),
        Fault("interrupted", "interrupted from outside", Code.INTERRUPTED, 15),
        Fault("partial-validation", "partial validation: ComfyUI takes a part of the prompt", Code.PROMPT_INVALID, 15),
    ),
    SITES: (
        Fault("site-401", "401 without a token", Code.MODEL_AUTH, 10),
        Fault("site-401-token", "401 though a token went along", Code.MODEL_AUTH, 10),
        Fault("site-403", "403", Code.MODEL_FORBIDDEN, 10),
        Fault("site-404", "404", Code.MODEL_NOT_FOUND, 15),
        Fault("site-410", "410", Code.MODEL_NOT_FOUND, 10),
        Fault("site-429-wait", "429 with a Retry-After that can be waited for", RIGHT, 15),
        Fault("site-429-long", "429 with a Retry-After of an hour", Code.MODEL_RATE_LIMITED, 10),
        Fault("site-429-bare", "429 without Retry-After, again and again", Code.MODEL_RATE_LIMITED, 15),
        Fault("site-451", "451", Code.MODEL_REGION_BLOCKED, 10),
        Fault("site-5xx-passes", "5xx that passes", RIGHT, 15),
        Fault("site-5xx-stays", "5xx that stays", Code.DOWNLOAD_FAILED, 15),
        Fault("site-login", "redirect to a login page", Code.MODEL_AUTH, 10),
        Fault("site-html", "HTML with status 200", Code.DOWNLOAD_FAILED, 10),
        Fault("site-json", "JSON with status 200", Code.DOWNLOAD_FAILED, 10),
    ),
    TRANSFERS: (
        Fault("no-length", "no Content-Length", RIGHT, 10),
        Fault("cut", "cut short, three times", RIGHT, 15),
        Fault("cut-always", "cut short, every time", Code.DOWNLOAD_FAILED, 15),
        Fault("wrong-once", "wrong bytes, once", RIGHT, 15),
        Fault("wrong-always", "wrong bytes, every time", Code.MODEL_CORRUPT, 15),
        Fault("no-ranges", "Range ignored, and cut short", RIGHT, 15),
        Fault("link-expires", "signed URL expires midway", RIGHT, 30),
        Fault("link-dead", "signed URL refused, the renewed one too", Code.DOWNLOAD_FAILED, 15),
        Fault("stalls", "stalls, then goes on", RIGHT, 15),
        Fault("stalls-always", "stalls every time", Code.DOWNLOAD_FAILED, 30),
        Fault("name-escapes", "name with `../`", RIGHT, 10),
        Fault("name-cjk", "name in CJK", RIGHT, 10),
        Fault("name-twice", "two files of one name", RIGHT, 10),
    ),
    DISKS: (
        Fault("disk-too-small", "disk too small for what the list needs", Code.DISK_FULL, 15),
        Fault("disk-fills", "disk full in the middle of a download", Code.DISK_FULL, 60),
        Fault("disk-read-only", "read-only disk", Code.DOWNLOAD_FAILED, 15),
        Fault("killed-downloading", "worker killed at the first, a middle and the last byte of a download", RIGHT, 60),
        Fault("two-fetch", "two workers fetch one model on one volume", RIGHT, 60),
        Fault("prune-in-use", "prune while another worker uses the file", RIGHT, 30),
    ),
    RUNPOD: (
        Fault("cancel", "cancelled while the prompt runs", CANCELLED, 30),
        Fault("cancel-download", "cancelled while models come", CANCELLED, 30),
        Fault("timeout", "RunPod's execution timeout", TIMED_OUT, 30),
        Fault("own-deadline", "our own deadline", Code.TIMEOUT, 30),
        Fault("sigterm", "SIGTERM during a job", RIGHT, 60),
        Fault("post-500", "result post answered 500, twice", RIGHT, 60),
        Fault("post-400", "result post answered 400", Code.INTERNAL, 60),
        Fault("post-400-large", "result post answered 400, as one too large for RunPod is", Code.RESULT_TOO_LARGE, 60),
        Fault("post-400-always", "result post answered 400, an error's as well", TIMED_OUT, 60),
        Fault("too-large", "answer too large", Code.RESULT_TOO_LARGE, 30),
    ),
    INPUT: (
        Fault("input-not-object", "not an object", Code.INVALID_INPUT, 5),
        Fault("input-huge", "huge", Code.INVALID_INPUT, 10),
        Fault("input-deep", "nested 100,000 deep", Code.INVALID_INPUT, 10),
        Fault("input-nan", "NaN", Code.INVALID_INPUT, 5),
        Fault("input-surrogate", "lone surrogates", Code.INVALID_INPUT, 5),
        Fault("input-base64", "bad base64", Code.INVALID_INPUT, 5),
        Fault("input-bomb", "zip-bomb image", Code.NODE_FAILED, 15),
        Fault("input-path", "path tricks in a file's name", Code.INVALID_INPUT, 5),
        Fault("input-symlink", "a file's name through a symlink that leads out", Code.INVALID_INPUT, 5),
        Fault("input-action", "unknown action", Code.INVALID_INPUT, 5),
        Fault("input-list", "a line of repo_list that cannot be read", Code.INVALID_REPO_LIST, 5),
    ),
    RESULTS: (
        Fault("s3-credentials", "credentials wrong", Code.UPLOAD_FAILED, 30),
        Fault("s3-bucket", "bucket missing", Code.UPLOAD_FAILED, 30),
        Fault("s3-503", "503, then well", RIGHT, 30),
        Fault("s3-cut", "upload cut, then well", RIGHT, 30),
        Fault("s3-down", "503 that stays", Code.UPLOAD_FAILED, 120),
    ),
    ADDRESSES: (
        Fault("input-private", "an input's link to a private address", Code.INVALID_INPUT, 10),
        Fault("input-rebinds", "an input's host that changes its address to a private one", Code.INVALID_INPUT, 10),
        Fault("input-redirects", "an input's link that redirects inside", Code.INVALID_INPUT, 10),
        Fault("site-redirects", "a model site that redirects inside", Code.DOWNLOAD_FAILED, 10),
        Fault("bucket-private", "a job's own bucket at a private address", Code.UPLOAD_FAILED, 10),
        Fault("token-leaks", "a token on the way through a redirect to the storage", RIGHT, 10),
    ),
    CLIENT: (
        Fault("client-401", "endpoint answers 401", SAID, 15),
        Fault("client-404", "endpoint answers 404", SAID, 15),
        Fault("client-429", "endpoint answers 429, then well", RIGHT, 30),
        Fault("client-5xx", "endpoint answers 502 while the job runs", RIGHT, 30),
        Fault("client-garbage", "endpoint answers with something else than JSON", SAID, 15),
        Fault("client-restart", "local ComfyUI restarted while the job runs", RIGHT, 60),
        Fault("client-tab", "tab closed while the job runs", RIGHT, 30),
    ),
}
FAULTS: dict[str, Fault] = {fault.id: fault for faults in AREAS.values() for fault in faults}
