"""Who may come in: the key, and whether a page of another origin, or a name that leads here by trickery, is behind it.

A browser lets any page send requests to this machine, and a name that its owner turns to 127.0.0.1 makes them look like
requests of that page's own origin. So without a key, only names that are this machine's are answered, and a request
that says it comes from another origin is refused unless that origin was named.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dsdnode.errors import BadInput
from dsdnode.gateway.failures import Forbidden, Unauthorized, refusal

OPEN_PATHS = ("/", "/health")
OPEN_FOLDER = "/page/"
"""They tell nothing of anybody's, and are asked for by who has no key: a browser, a supervisor."""
DEFAULT_PORTS = {"http": 80, "https": 443}
"""No browser writes them."""
PAGES = (
    "http", "https", "app", "capacitor", "chrome-extension", "moz-extension", "safari-web-extension", "tauri",
    "vscode-webview",
)  # fmt: skip
"""Schemes of pages: of the web, of browsers' extensions, and of programs that are made of pages."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Without a `key` this machine answers to its loopback names alone; pages of `origins` may ask."""

    key: str = ""
    origins: Sequence[str] = ()

    def check(self, path: str, headers: Headers) -> None:
        """Raises Unauthorized or Forbidden."""
        origin, host = headers.get("origin", ""), headers.get("host", "")
        if origin and origin not in self.origins and "*" not in self.origins and not is_same(origin, host):
            raise Forbidden(f"pages of {origin[:100]} may not ask here: --api-origin names those that may")
        if self.key:
            is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
            if not is_open and not self.has_key(headers):
                raise Unauthorized("this server has a key: send it as `Authorization: Bearer KEY`, or as `x-api-key`")
        elif not is_loopback(hostname(host)):
            raise Forbidden(f"{host[:100]!r} is no name of this machine that is answered without --api-key")

    def has_key(self, headers: Headers) -> bool:
        """In either place: programs fill the other one with whatever they have of somebody else. And in UTF-8, as
        terminals have it, or in Latin-1, as browsers do."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = (bearer.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""))
        forms = [form for one in given for form in (one.encode("latin-1"), one.encode())]
        return any([hmac.compare_digest(one, self.key.encode()) for one in forms])


def is_same(origin: str, host: str) -> bool:
    """Is it the origin of pages that come from here? False for what is no origin."""
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def hostname(host: str) -> str:
    """Without the port, small, as a Host header or a flag has it."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_origin(origin: str) -> str:
    """Raises BadInput, also for what no browser sends: it would never be let in."""
    if origin == "*":
        return origin
    with contextlib.suppress(ValueError):
        parts = urlsplit(origin)
        port = f":{parts.port}" if parts.port is not None else ""  # (raises beyond 65535)
        is_host = re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", parts.netloc.removesuffix(port)) is not None
        is_whole = origin == f"{parts.scheme}://{parts.netloc}" and parts.port != DEFAULT_PORTS.get(parts.scheme, 0)
        if parts.scheme in PAGES and is_whole and is_host:
            return origin
    raise BadInput(
        f"an origin is http://HOST:PORT or https://HOST as a browser writes it, without a path, not {origin[:100]!r}"
    )


class Doors:
    """The middleware that asks the rules."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._rules.check(scope["path"], Headers(scope=scope))
            except (Unauthorized, Forbidden) as error:
                await refusal(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
