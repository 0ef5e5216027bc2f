"""What servers say that is odd, and what users call an address: words come of it, never a traceback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from dsdnode.errors import BadInput
from dsdnode.weights.hub import endpoint, tokens
from dsdnode.weights.pace import Pace
from dsdnode.weights.sources import RemoteFile, parse_source
from dsdnode.weights.web import Limits, SourceFailed, Web, _next

FILE = RemoteFile("model.gguf", "http://files.example/model.gguf", 10, etag='"one"')


class Sent(httpx.AsyncByteStream):
    """As it comes by a connection."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


def web_of(answer: Callable[[httpx.Request], httpx.Response]) -> Web:
    web = Web({}, lambda words: None, Pace(), Limits(pause_s=0.001))
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


async def test_an_answer_that_cannot_be_unpacked_is_given_up_in_words() -> None:
    web = web_of(
        lambda request: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Sent(b"this is no gzip"))
    )
    with pytest.raises(SourceFailed, match=r"unpacked, \d times in a row"):
        await web.json("http://files.example/api")
    await web.close()


def test_a_user_without_a_home_has_no_token_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert tokens({}) == {}
