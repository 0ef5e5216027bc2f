"""The page for people: `GET /`, and its files below /page/. All of it comes from here, and it asks nobody else."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "static"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {path.name: KINDS[path.suffix] for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""A model's words come from strangers: should they ever be taken for the page's own, none of them runs or goes out."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def _file(name: str) -> Response:
    return FileResponse(FOLDER / name, media_type=FILES[name], headers=HEADERS)


async def index(request: Request) -> Response:
    return _file("index.html")


async def file(request: Request) -> Response:
    return _file(request.url.path.rpartition("/")[2])


ROUTES = [
    Route("/", index, methods=["GET"]),
    *(Route(f"/page/{name}", file, methods=["GET"]) for name in FILES),
]
