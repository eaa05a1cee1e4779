"""The frontend's settings and files, of one user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

import folder_paths
from save_path import is_inside

if TYPE_CHECKING:
    from server import PromptServer


def add_routes(server: PromptServer) -> None:
    _add_settings(server.routes)
    _add_files(server.routes)

    @server.routes.get("/users")
    async def users(_: web.Request) -> web.Response:
        return web.json_response({"storage": "server", "migrated": _root().exists()})

    @server.routes.get("/internal/files/{kind}")
    async def files(request: web.Request) -> web.Response:
        folder = folder_paths.get_directory_by_type(request.match_info["kind"])
        if folder is None:
            return web.json_response({"error": "Invalid directory type"}, status=400)
        return web.json_response(_newest_first(Path(folder)))


def _newest_first(folder: Path) -> list[str]:
    files = [path for path in folder.iterdir() if path.is_file()]
    return [path.name for path in sorted(files, key=lambda path: -path.stat().st_mtime)]


def _root() -> Path:
    return Path(folder_paths.get_user_directory(), "default")


def _settings() -> dict[str, Any]:
    path = _root() / "comfy.settings.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _store(settings: dict[str, Any]) -> web.Response:
    _root().mkdir(parents=True, exist_ok=True)
    (_root() / "comfy.settings.json").write_text(json.dumps(settings, indent=4))
    return web.Response()


def _add_settings(routes: web.RouteTableDef) -> None:
    @routes.get("/settings")
    async def every(_: web.Request) -> web.Response:
        return web.json_response(_settings())

    @routes.get("/settings/{id}")
    async def one(request: web.Request) -> web.Response:
        return web.json_response(_settings().get(request.match_info["id"]))

    @routes.post("/settings")
    async def change(request: web.Request) -> web.Response:
        return _store({**_settings(), **await request.json()})

    @routes.post("/settings/{id}")
    async def change_one(request: web.Request) -> web.Response:
        return _store({**_settings(), request.match_info["id"]: await request.json()})


def _path(request: web.Request, name: str = "file") -> Path:
    path = _root() / request.match_info[name]
    if not is_inside(str(_root()), str(path)):
        raise web.HTTPForbidden
    return path


def _described(path: Path) -> dict[str, Any]:
    stat = path.stat()
    name = path.relative_to(_root()).as_posix()
    return {
        "path": name,
        "size": stat.st_size,
        "modified": int(stat.st_mtime * 1000),
        "created": int(stat.st_ctime * 1000),
    }


def _add_files(routes: web.RouteTableDef) -> None:
    routes.get("/userdata")(_list)

    @routes.get("/userdata/{file}")
    async def read(request: web.Request) -> web.StreamResponse:
        path = _path(request)
        return web.FileResponse(path) if path.is_file() else web.Response(status=404)

    @routes.post("/userdata/{file}")
    async def write(request: web.Request) -> web.Response:
        path = _path(request)
        if path.exists() and request.query.get("overwrite") == "false":
            return web.Response(status=409, text="File already exists")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(await request.read())
        return _answer(request, path)

    @routes.delete("/userdata/{file}")
    async def delete(request: web.Request) -> web.Response:
        path = _path(request)
        if not path.is_file():
            return web.Response(status=404)
        path.unlink()
        return web.Response(status=204)

    @routes.post("/userdata/{file}/move/{dest}")
    async def move(request: web.Request) -> web.Response:
        source, target = _path(request), _path(request, "dest")
        if not source.is_file():
            return web.Response(status=404)
        if target.exists() and request.query.get("overwrite") == "false":
            return web.Response(status=409, text="File already exists")
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return _answer(request, target)


def _answer(request: web.Request, path: Path) -> web.Response:
    full = request.query.get("full_info", "").lower() == "true"
    return web.json_response(_described(path) if full else path.relative_to(_root()).as_posix())


async def _list(request: web.Request) -> web.Response:
    wanted = request.query.get("dir")
    if not wanted:
        return web.Response(status=400, text="Directory not provided")
    folder = _root() / wanted
    if not is_inside(str(_root()), str(folder)):
        return web.Response(status=403, text="Invalid directory")
    if not folder.is_dir():
        return web.Response(status=404, text="Directory not found")
    recurse = request.query.get("recurse", "").lower() == "true"
    files = sorted(path for path in (folder.rglob("*") if recurse else folder.glob("*")) if path.is_file())
    if request.query.get("full_info", "").lower() == "true":
        return web.json_response([{**_described(path), "path": path.relative_to(folder).as_posix()} for path in files])
    names = [path.relative_to(folder).as_posix() for path in files]
    split = request.query.get("split", "").lower() == "true"
    return web.json_response([[name, *name.split("/")] for name in names] if split else names)
