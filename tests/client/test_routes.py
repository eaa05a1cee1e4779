"""The table of routes: each checks its caller, and those that change settings want this machine's own browser."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from client.routes import add_routes

HEADERS = {"Host": "127.0.0.1", "X-Remote-Serverless": "1"}


class Service:
    """Answers everything with nothing."""

    def __getattr__(self, name):
        return self if name == "config_routes" else self.answer

    async def answer(self, fields):
        return {}


def statuses(remote, headers):
    routes = web.RouteTableDef()
    add_routes(routes, Service())

    async def ask(route):
        request = make_mocked_request("GET", route.path, headers=headers).clone(remote=remote)
        return (await route.handler(request)).status

    return {(route.method, route.path): asyncio.run(ask(route)) for route in routes}


def test_every_route_wants_the_header_that_other_pages_cannot_send():
    assert set(statuses("127.0.0.1", HEADERS).values()) == {200}
    assert set(statuses("127.0.0.1", {"Host": "127.0.0.1"}).values()) == {403}


def test_only_the_own_machine_changes_and_tests_settings():
    refused = {route for route, status in statuses("8.8.8.8", HEADERS).items() if status == 403}
    assert refused == {("POST", "/remote/config"), ("POST", "/remote/test")}
