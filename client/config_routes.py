"""Reads, changes and tests the settings of Remote Config. Keys are never returned."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import asdict
from typing import Any

from .comfyui.access import HttpError
from .runpod.client import EndpointError, RunPodClient, Target
from .sending.prompt import PromptError
from .sending.submission import target_of
from .sending.uploads import UploadError, check_bucket
from .settings.bucket import BucketConfig
from .settings.config import Config, ConfigError, check_key, parse_endpoint


class ConfigRoutes:
    """The routes of the Remote Config dialog."""

    def __init__(self, config: Config, buckets: BucketConfig, client: RunPodClient) -> None:
        self._config, self._buckets, self._client = config, buckets, client

    def public(self) -> dict[str, Any]:
        """Return the settings without the keys."""
        settings = self._config.settings
        source = self._config.key_source(settings.endpoint)
        key = {"configured": source is not None, "source": source}
        return {**asdict(settings), "key": key, "bucket": self._buckets.public()}

    def change(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer ``POST /remote/config``. ``forget_key`` and ``forget_bucket`` remove what is saved."""
        changes = dict(body)
        key, bucket = changes.pop("api_key", None), changes.pop("bucket", None)
        forget_key, forget_bucket = changes.pop("forget_key", False), changes.pop("forget_bucket", False)
        try:
            if isinstance(bucket, dict):
                self._buckets.change(bucket)  # first: it is the likeliest to be rejected, and then nothing has changed
            self._config.change(changes)
            if forget_key is True:
                self._config.forget_key()
            if forget_bucket is True:
                self._buckets.forget()
            if isinstance(key, str) and key.strip():
                self._config.set_key(key, self._config.settings.endpoint)
        except ConfigError as error:
            raise HttpError(400, {"error": str(error)}) from None
        return self.public()

    async def test(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer ``POST /remote/test``: try the values in the dialog, without saving them."""
        try:
            health = await self._client.health(self._target_to_test(body))
            bucket = self._buckets.bucket(body.get("bucket"))
            if bucket is not None:
                await asyncio.to_thread(check_bucket, bucket, threading.Event())
        except (PromptError, EndpointError, UploadError, ConfigError) as error:
            return {"ok": False, "message": str(error)}
        return {"ok": True, "message": health_message(health) + (" The bucket works." if bucket else "")}

    def _target_to_test(self, body: dict[str, Any]) -> Target:
        endpoint = parse_endpoint(str(body.get("endpoint") or "")) or self._config.settings.endpoint
        typed = str(body.get("api_key") or "")
        return Target(endpoint, check_key(typed)) if typed and endpoint else target_of(self._config, endpoint)


def health_message(health: dict[str, Any]) -> str:
    """Return RunPod's ``/health`` as a sentence."""
    workers, jobs = health.get("workers"), health.get("jobs")
    if not isinstance(workers, dict):
        return "The endpoint answers."
    ready = max(_count(workers, "idle"), _count(workers, "ready")) + _count(workers, "running")
    starting, throttled = _count(workers, "initializing"), _count(workers, "throttled")
    waiting = _count(jobs, "inQueue") if isinstance(jobs, dict) else 0
    parts = [f"{ready} worker{'s' if ready != 1 else ''} ready"]
    parts += [f"{starting} starting"] if starting else []
    parts += [f"{throttled} waiting for a GPU"] if throttled else []
    parts += [f"{waiting} job{'s' if waiting != 1 else ''} in the queue"] if waiting else []
    cold = "" if ready else " The first job will wait for a cold start."
    return f"The endpoint answers: {', '.join(parts)}.{cold}"


def _count(counts: dict[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) else 0
