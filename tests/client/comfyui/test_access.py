"""Who may call the pack's routes."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp.test_utils import make_mocked_request

from client.comfyui.access import HttpError, guarded


def answered(handler, *, remote="127.0.0.1", own_machine_only=False, **headers):
    headers = {"Host": "127.0.0.1", "X-Remote-Serverless": "1", **headers}

    async def ask():
        request = make_mocked_request("GET", "/remote/x?a=1", headers=headers).clone(remote=remote)
        return await guarded(handler, own_machine_only=own_machine_only)(request)

    return asyncio.run(ask())


async def echo(fields):
    return fields


def test_a_fault_of_the_pack_is_an_answer_and_a_line_in_the_log(caplog):
    async def broken(fields):
        raise KeyError("secret")

    async def busy(fields):
        raise HttpError(409, {"error": "busy"})

    response = answered(broken)
    assert (response.status, "secret" in response.text, "failed" in caplog.text) == (500, False, True)
    assert answered(busy).status == 409
    assert json.loads(answered(echo).text) == {"a": "1"}


@pytest.mark.parametrize(
    ("remote", "status"), [("127.0.0.1", 200), ("::ffff:127.0.0.1", 200), ("8.8.8.8", 403), ("?", 403)]
)
def test_settings_are_for_the_own_machine(monkeypatch, remote, status):
    assert answered(echo, remote=remote, own_machine_only=True).status == status
    monkeypatch.setenv("REMOTE_SERVERLESS_ALLOW_REMOTE_CONFIG", "1")
    assert answered(echo, remote=remote, own_machine_only=True).status == 200
