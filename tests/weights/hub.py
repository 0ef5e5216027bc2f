"""A hub on loopback that behaves as hubs do, and as badly: redirects that expire, stalls, other ranges, other bytes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
TAGS = ["gguf", "license:gemma"]
REPO = "alice/demo-GGUF"


@dataclass
class Asked:
    """One request, and what is to become of it: a fault changes it before it is answered."""

    path: str
    headers: dict[str, str]
    number: int
    """Of those for bytes of files, from 0; -1: it asks for something else."""
    status: int = 0
    start: int = 0
    end: int = 0
    body: bytes = b""
    extra: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    """The connection ends after so many bytes of the body."""
    stalls_at: int | None = None
    drips: bool = False
    """Where it would stall a byte comes now and then."""
    whole: bool = False
    """Answer 200 with all of the file."""

    @property
    def num_bytes(self) -> int:
        return self.end - self.start


DRIP_S = 0.02
Fault = Callable[[Asked], None]


class Hub:
    """`files` by name. Bytes of files are given at a second address, whose links end after `link_uses`."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.faults: list[Fault] = []
        """Of requests for bytes: each fault is asked for all of them."""
        self.asked: list[Asked] = []
        self.link_uses = 1_000_000
        self.host = "127.0.0.1"
        self.token = ""
        self.gated = False
        self.is_gated_now = False
        """Its terms were accepted."""
        self.others = ["alice/demo-GGUF", "bob/gemma-3-270m-GGUF"]
        self.bytes_per_s = 0.0
        self.sent_bytes = 0
        self.seen_tokens: list[tuple[str, str]] = []
        self._uses: dict[str, int] = {}
        self._num_links = 0
        self._servers: list[asyncio.Server] = []
        self._sent_s = 0.0
        self._released = asyncio.Event()

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self._servers[0].sockets[0].getsockname()[1]}"

    @property
    def bytes_address(self) -> str:
        """Another host, as far as tokens go."""
        return f"http://127.0.0.1:{self._servers[1].sockets[0].getsockname()[1]}"

    @property
    def env(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token, "HF_TOKEN_PATH": "/nowhere"}

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    @property
    def fetched(self) -> list[Asked]:
        return [one for one in self.asked if one.number >= 0]

    async def start(self) -> None:
        self._servers = [await asyncio.start_server(self._front, "127.0.0.1", 0)]
        self._servers.append(await asyncio.start_server(self._back, "127.0.0.1", 0))

    async def close(self) -> None:
        self._released.set()
        for server in self._servers:
            server.close()

    # --- the hub itself

    async def _front(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer, self._answer_front)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer, self._answer_back)

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[Asked], None],
    ) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                lines = request.decode().split("\r\n")
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:-2])}
                asked = Asked(lines[0].split(" ")[1], headers, -1)
                self.asked.append(asked)
                answer(asked)
                if not await self._send(writer, asked):
                    break
        writer.close()

    def _answer_front(self, asked: Asked) -> None:
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        self.seen_tokens.append(("front", token))
        path = unquote(urlsplit(asked.path).path)
        if path == "/api/models":
            asked.status, asked.body = 200, json.dumps([{"id": name} for name in self.others]).encode()
        elif not path.startswith((f"/{REPO}/", f"/api/models/{REPO}/")):
            asked.status, asked.extra = 401, {"X-Error-Code": "RepoNotFound"}
        elif self.gated and token != self.token:
            asked.status, asked.extra = 401, {"X-Error-Code": "GatedRepo"}
        elif path.startswith("/api/"):
            asked.status, asked.body = 200, json.dumps(self._described()).encode()
        else:
            self._redirect(asked, path.rpartition("/")[2])

    def _described(self) -> object:
        siblings = [
            {"rfilename": name, "size": len(data), "lfs": {"sha256": self.sha256(name), "size": len(data)}}
            for name, data in self.files.items()
        ]
        gated = "auto" if self.gated or self.is_gated_now else False
        return {"sha": COMMIT, "gated": gated, "siblings": [{"rfilename": "README.md"}, *siblings], "tags": TAGS}

    def _redirect(self, asked: Asked, name: str) -> None:
        self._num_links += 1
        asked.status = 302
        asked.extra = {
            "Location": f"{self.bytes_address}/{name}?signed={self._num_links}",
            "X-Linked-Etag": f'"{self.sha256(name)}"',
            "X-Linked-Size": str(len(self.files[name])),
            "X-Repo-Commit": COMMIT,
        }

    # --- where its bytes are

    def _answer_back(self, asked: Asked) -> None:
        self.seen_tokens.append(("back", asked.headers.get("authorization", "")))
        self._uses[asked.path] = self._uses.get(asked.path, 0) + 1
        if self._uses[asked.path] > self.link_uses:
            asked.status = 403
            return
        data = self.files[unquote(urlsplit(asked.path).path)[1:]]
        asked.number = len(self.fetched)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", ""))
        asked.start, asked.end = (int(found[1]), min(int(found[2]) + 1, len(data))) if found else (0, len(data))
        for fault in self.faults:
            fault(asked)
        if asked.status:
            return
        if asked.whole or found is None:
            asked.status, asked.start, asked.end = 200, 0, len(data)
        else:
            asked.status = 206
            asked.extra.setdefault("Content-Range", f"bytes {asked.start}-{asked.end - 1}/{len(data)}")
        asked.body = asked.body or data[asked.start : asked.end]

    async def _send(self, writer: asyncio.StreamWriter, asked: Asked) -> bool:
        head = [f"HTTP/1.1 {asked.status} so", f"Content-Length: {len(asked.body)}"]
        writer.write("\r\n".join([*head, *(f"{k}: {v}" for k, v in asked.extra.items()), "", ""]).encode())
        body = asked.body[: asked.cut_at] if asked.cut_at is not None else asked.body
        until = len(body) if asked.stalls_at is None else asked.stalls_at
        for at in range(0, until, 65536):
            part = body[at : min(at + 65536, until)]
            await self._paced(len(part))
            writer.write(part)
            self.sent_bytes += len(part) * (asked.number >= 0)
            await writer.drain()
        while asked.stalls_at is not None and not self._released.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), DRIP_S if asked.drips else None)
            if asked.drips:
                writer.write(body[:1])
                await writer.drain()
        return asked.cut_at is None and asked.stalls_at is None

    async def _paced(self, num_bytes: int) -> None:
        """The line that all its connections share."""
        if self.bytes_per_s:
            now = asyncio.get_running_loop().time()
            self._sent_s = max(self._sent_s, now) + num_bytes / self.bytes_per_s
            await asyncio.sleep(self._sent_s - now)


@asynccontextmanager
async def hub_of(*paths: Path) -> AsyncIterator[Hub]:
    hub = Hub({path.name: path.read_bytes() for path in paths})
    await hub.start()
    try:
        yield hub
    finally:
        await hub.close()
