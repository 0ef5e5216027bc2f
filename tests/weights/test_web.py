"""What servers say that is odd, and what users call an address: words come of it, never a traceback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from dsdnode.errors import BadInput
from dsdnode.models import demo_target
from dsdnode.weights.hub import endpoint, tokens
from dsdnode.weights.pace import Pace
from dsdnode.weights.sources import RemoteFile, parse_source
from dsdnode.weights.web import PATIENT, Limits, SourceFailed, Web, _next
from tests.weights.hub import REPO, Asked, hub_of

FILE = RemoteFile("model.gguf", "http://files.example/model.gguf", 10, etag='"one"')


SOON = Limits(pause_s=0.001)


class Sent(httpx.AsyncByteStream):
    """As it comes by a connection."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


def web_of(answer: Callable[[httpx.Request], httpx.Response], limits: Limits = SOON) -> Web:
    web = Web({}, lambda words: None, Pace(), limits)
    web._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return web


@pytest.mark.parametrize(
    "text", ["https://[::1/m.gguf", "https://x:99999/m.gguf", "http://x:port/m.gguf", "ftp://x/m.gguf"]
)
def test_what_is_no_address_is_said_to_be_none(text: str) -> None:
    with pytest.raises(BadInput, match="no source of models"):
        parse_source(text)
    with pytest.raises(BadInput, match="HF_ENDPOINT"):
        endpoint({"HF_ENDPOINT": text.removesuffix("/m.gguf")})


@pytest.mark.parametrize("location", ["https://[::1/", "https://x:99999/", "http://x:y/", "javascript:x"])
def test_a_redirect_to_what_is_no_address_is_not_followed(location: str) -> None:
    with pytest.raises(SourceFailed, match="not followed"):
        _next("https://hub.example/a/b", location)
    with pytest.raises(SourceFailed, match="not followed"):
        _next("http://hub.example/a/b", location)


def test_a_token_that_no_header_can_bear_is_said_to_be_none() -> None:
    with pytest.raises(BadInput, match="HF_TOKEN"):
        tokens({"HF_TOKEN": "hf_\u00e4"})


async def test_the_tag_of_an_error_page_is_not_the_file_s() -> None:
    """The server is busy once, and tags the page that says so."""
    answers = iter(
        [
            httpx.Response(503, headers={"etag": '"page"', "content-length": "4"}, content=b"busy"),
            httpx.Response(206, headers={"etag": '"one"', "content-range": "bytes 0-9/10"}, stream=Sent(b"0123456789")),
        ]
    )
    web = web_of(lambda request: next(answers))
    assert b"".join([chunk async for chunk in web.read(FILE, 0, 10)]) == b"0123456789"
    await web.close()


async def test_what_may_be_packed_is_not() -> None:
    """Mallory's 3 kB would become gigabytes; and of a file that is packed nobody knows how large it is."""
    asked: list[str] = []

    def packs(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["accept-encoding"])
        return httpx.Response(200, headers={"content-encoding": "gzip, gzip"}, stream=Sent(b"packed"))

    web = web_of(packs)
    with pytest.raises(SourceFailed, match="sends packed what was not asked for so"):
        await web.json("http://files.example/api")
    with pytest.raises(SourceFailed, match="sends packed"):
        await web.look(FILE.url, FILE.name)
    with pytest.raises(SourceFailed, match="sends packed"):
        await anext(web.read(FILE, 0, 10))
    assert asked == ["identity"] * 3
    await web.close()


@pytest.mark.parametrize(
    "said",
    [
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "soon",
    ],
)
async def test_a_time_to_come_again_that_is_none_says_nothing(said: str) -> None:
    web = web_of(lambda request: httpx.Response(503, headers={"retry-after": said}, stream=Sent(b"")))
    with pytest.raises(SourceFailed, match=r"it fails \(503\), 6 times in a row"):
        await web.json("http://files.example/api")
    await web.close()


async def test_a_server_that_is_asked_again_at_once_is_left_time_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    web = web_of(lambda request: httpx.Response(503, headers={"retry-after": "0"}, stream=Sent(b"")), PATIENT)
    monkeypatch.setattr("asyncio.sleep", sleep)
    with pytest.raises(SourceFailed):
        await web.json("http://files.example/api")
    assert waits == [1, 2, 4, 8, 16]
    await web.close()


async def test_json_that_is_too_deep_is_none_of_a_hub() -> None:
    web = web_of(lambda request: httpx.Response(200, stream=Sent(b"[" * 100_000)))
    with pytest.raises(SourceFailed, match="does not answer with JSON"):
        await web.json("http://files.example/api")
    await web.close()


async def test_a_name_that_no_host_can_have_is_said_to_be_none() -> None:
    web = web_of(lambda request: httpx.Response(302, headers={"location": "http://xn--/"}))
    for url in ("http://files.example/api", "http://xn--/api"):
        with pytest.raises(SourceFailed, match="is no address of the web, or leads to none"):
            await web.json(url)
    await web.close()


DRIPS = {
    "headers": b"HTTP/1.1 206 so\r\nX-A: ",
    "body": b"HTTP/1.1 200 so\r\nContent-Length: 10000\r\n\r\n",
    "chunk": b"HTTP/1.1 206 so\r\nContent-Range: bytes 0-9999/10000\r\nTransfer-Encoding: chunked\r\n\r\n1;",
}
HASTY = Limits(connect_s=0.1, stall_s=0.1, pause_s=0.001, json_s=0.3)


@asynccontextmanager
async def dripping(first: bytes, drop: bytes = b"a") -> AsyncIterator[str]:
    """A server whose answers begin so, and never end: each part comes long before anybody would be tired of it."""
    gone: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        gone.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(first)
            while True:
                writer.write(drop)
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone)


@pytest.mark.parametrize(
    ("what", "words"),
    [("headers", "no answer for 0.2 s"), ("body", "next to nothing came for 0.1 s"), ("chunk", "nothing came for 0.1")],
)
async def test_what_comes_in_drips_is_given_up(what: str, words: str) -> None:
    """Headers, a body, or how much of it will come."""
    web = Web({}, lambda words: None, Pace(), HASTY)
    async with dripping(DRIPS[what]) as at, asyncio.timeout(20):
        with pytest.raises(SourceFailed, match=f"{words}.*, 6 times in a row"):
            async for _ in web.read(RemoteFile("model.gguf", f"{at}/model.gguf", 10_000), 0, 10_000):
                pass
    await web.close()


async def test_a_description_without_end_is_given_up() -> None:
    web = Web({}, lambda words: None, Pace(), HASTY)
    async with dripping(b"HTTP/1.1 200 so\r\n\r\n", b" " * 1000) as at, asyncio.timeout(20):
        with pytest.raises(SourceFailed, match=r"does not answer within 0\.3 s"):
            await web.json(f"{at}/api")
    await web.close()


@pytest.mark.parametrize("fault", ["status", "stall"])
async def test_a_hub_that_leads_elsewhere_by_now_is_asked_where(fault: str) -> None:
    """The node of its CDN that alice was led to is broken from her second request on."""
    async with hub_of(demo_target()) as hub:
        redirect, is_broken = hub._redirect, asyncio.Event()

        def led(asked: Asked, name: str) -> None:
            redirect(asked, name)
            asked.extra["Location"] += "&node=2" * is_broken.is_set()

        def broken(asked: Asked) -> None:
            if asked.number > 0:
                is_broken.set()
            if is_broken.is_set() and "node=2" not in asked.path:
                asked.status, asked.stalls_at = (500, None) if fault == "status" else (0, 0)

        hub._redirect, hub.faults = led, [broken]  # type: ignore[method-assign]
        web = Web({}, lambda words: None, Pace(), Limits(stall_s=0.2, pause_s=0.001))
        data = demo_target().read_bytes()
        file = RemoteFile("demo-target.gguf", f"{hub.endpoint}/{REPO}/resolve/main/demo-target.gguf", len(data))
        for start, end in ((0, 1000), (1000, len(data))):
            assert b"".join([chunk async for chunk in web.read(file, start, end)]) == data[start:end]
        await web.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("ALL_PROXY", "ftp://127.0.0.1:1080"),
        ("ALL_PROXY", "http://127.0.0.1:port"),
        ("SSL_CERT_FILE", "/nowhere"),
        ("SSL_CERT_FILE", __file__),
    ],
)
def test_what_the_environment_wants_and_cannot_have_is_said(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"the environment names .*{name}"):
        Web({}, lambda words: None, Pace())


def test_a_user_without_a_home_has_no_token_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert tokens({}) == {}
