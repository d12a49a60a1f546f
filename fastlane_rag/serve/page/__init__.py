"""The page at `/`: three files, sent as they are."""

from __future__ import annotations

import importlib.resources

from fastapi import APIRouter
from starlette.responses import Response

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def _route(path: str, name: str, media_type: str) -> None:
    content = (importlib.resources.files(__package__) / name).read_bytes()  # of a package in a zip file as well

    @router.get(path, name=name)
    async def file() -> Response:
        return Response(content, media_type=f"{media_type}; charset=utf-8", headers={"Cache-Control": "no-cache"})


for path, (name, media_type) in _FILES.items():
    _route(path, name, media_type)
