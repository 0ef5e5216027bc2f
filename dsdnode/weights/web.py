"""HTTP as hubs speak it: redirects to addresses that expire, bodies that stall or end early, limits, other bytes.

`read` goes on from where a body ended, so nothing comes twice; whatever goes wrong is said, tried again a few times,
and ends in words. A token is sent to the one host that it is for, never after a redirect to another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec

from dsdnode.errors import BadInput, DsdError
from dsdnode.weights.answers import is_packed, retry_after_s, sha256_in, total_bytes
from dsdnode.weights.pace import Pace
from dsdnode.weights.sources import RemoteFile, check_address

if TYPE_CHECKING:
    import httpx  # at run time where it is used: few starts of a node fetch anything

MAX_REDIRECTS = 5
MAX_TRIES = 6
"""In a row without bytes worth the name; with the pauses between them, half a minute."""
WORTH_BYTES = 64 * 1024
LEAST_BYTES_PER_S = 1000
"""Of an answer that goes on: a modem gave more."""
MAX_WAIT_S = 600.0
"""As a server may ask for (429, Retry-After); longer is for people to wait."""
MAX_SKIPPED_BYTES = 64 << 20
"""Of the answer of a server that sends a whole file where a range was asked for."""
MAX_JSON_BYTES = 16 << 20
"""Of what is not a model: a repository's list of files."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Tests shorten them."""

    connect_s: float = 10.0
    stall_s: float = 20.0
    """Without a byte; then it is asked for anew."""
    pause_s: float = 1.0
    """Before a second try, and twice as long before each further one; longer where the server asks for it."""
    json_s: float = 120.0
    """For all of what is not a model."""

    @property
    def headers_s(self) -> float:
        """For all headers of an answer, and what it takes to get there."""
        return self.connect_s + self.stall_s


PATIENT = Limits()


class SourceFailed(DsdError):
    """A source does not give what it should, and it makes no sense to go on asking it."""


class SourceChanged(SourceFailed):
    """What it has now is not what it had when the pull began."""


class Denied(Exception):
    """401, 403, 404 or 410, and what the server says of it (X-Error-Code)."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}".strip())
        self.status = status
        self.code = code


class _Again(Exception):
    """It may be better the next time, after `wait_s` at the earliest."""

    def __init__(self, words: str, wait_s: float = 0.0) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class Web:
    """`tokens`: by origin (scheme, host, port)."""

    def __init__(
        self,
        tokens: Mapping[str, str],
        tell: Callable[[str], None],
        pace: Pace,
        limits: Limits = PATIENT,
    ) -> None:
        """Raises BadInput: the environment wants what cannot be."""
        self._tokens = dict(tokens)
        self._tell = tell
        self.pace = pace
        self._limits = limits
        self._client = _client(limits)
        self._leads_to: dict[str, str] = {}
        """By the address of a file: where it was found last, which may expire."""
        self.num_bytes = 0
        """Of bodies that were read."""

    async def close(self) -> None:
        await self._client.aclose()

    # --- what is small

    async def json(self, url: str) -> Any:
        """Raises SourceFailed, Denied."""
        return await self._patiently(lambda: self._json(url), url)

    async def _json(self, url: str) -> Any:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.json_s), self._open(url, {}) as answer:
                if answer.status_code != 200:
                    self._complain(answer)
                async for chunk in self._moving(answer):
                    body += chunk
                    if len(body) > MAX_JSON_BYTES:
                        raise SourceFailed(f"{url} answers with more than {MAX_JSON_BYTES >> 20} MiB")
        except TimeoutError:
            raise SourceFailed(f"{url} does not answer within {self._limits.json_s:g} s") from None
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            raise SourceFailed(f"{url} does not answer with JSON: is it a hub?") from None

    async def look(self, url: str, name: str) -> RemoteFile:
        """What a server says of the file at an address. Raises SourceFailed, Denied."""
        return await self._patiently(lambda: self._look(url, name), url)

    async def _look(self, url: str, name: str) -> RemoteFile:
        first: dict[str, str] = {}
        async with self._open(url, {"Range": "bytes=0-0"}, first) as answer:
            if answer.status_code not in (200, 206):
                self._complain(answer)
            size_bytes = total_bytes(answer.status_code, answer.headers)
            if size_bytes is None:
                raise SourceFailed(f"{urlsplit(url).hostname} does not say how large {name} is")
            sha256 = first.get("x-linked-etag") or ""
            return RemoteFile(name, url, size_bytes, sha256_in(sha256), answer.headers.get("etag", ""))

    async def _patiently(self, ask: Callable[[], Awaitable[T]], url: str) -> T:
        for tries in range(1, MAX_TRIES + 1):
            try:
                return await ask()
            except _Again as trouble:
                await self._pause(trouble, tries, url)
        raise AssertionError

    # --- what is large

    async def read(self, file: RemoteFile, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Bytes [start, end) of a file, as they come. Raises SourceFailed, SourceChanged, Denied."""
        tries, asked_at = 0, start
        while start < end:
            try:
                async with aclosing(self._read_once(file, start, end)) as chunks:
                    async for chunk in chunks:
                        self.num_bytes += len(chunk)
                        await self.pace.take(len(chunk))
                        start += len(chunk)
                        yield chunk
                if start < end:
                    raise _Again("its answer ended early")
            except _Again as trouble:
                tries = 1 if start - asked_at >= WORTH_BYTES else tries + 1
                asked_at = start
                await self._pause(trouble, tries, file.url)

    async def _pause(self, trouble: _Again, tries: int, url: str) -> None:
        """Then the address itself is asked again: by now it may lead to where all is well."""
        self._leads_to.pop(url, None)
        host = urlsplit(url).hostname
        if tries >= MAX_TRIES:
            raise SourceFailed(f"{host}: {trouble}, {tries} times in a row") from None
        wait_s = max(trouble.wait_s, self._limits.pause_s * 2 ** (tries - 1))
        if wait_s > MAX_WAIT_S:
            raise SourceFailed(f"{host}: {trouble}; it wants to be asked again in {wait_s / 60:.0f} min") from None
        self._tell(f"{host}: {trouble}; again in {wait_s:.0f} s")
        await asyncio.sleep(wait_s)

    async def _read_once(self, file: RemoteFile, start: int, end: int) -> AsyncGenerator[bytes, None]:
        first: dict[str, str] = {}
        async with self._open(file.url, {"Range": f"bytes={start}-{end - 1}"}, first) as answer:
            self._check_unchanged(file, first, answer)
            skip = self._check_range(file, answer, start)
            async for chunk in self._moving(answer):
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                chunk, skip = chunk[skip : skip + end - start], 0
                start += len(chunk)
                yield chunk
                if start >= end:
                    return

    async def _moving(self, answer: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Its bytes. What comes a byte at a time, or says for ever how much will come, never stalls, and keeps a place
        of those that would give more."""
        clock = asyncio.get_running_loop().time
        num_bytes, waited_s, chunks = 0, 0.0, answer.aiter_raw()
        while True:
            began_s = clock()
            try:
                async with asyncio.timeout(self._limits.stall_s):
                    chunk = await anext(chunks, b"")
            except TimeoutError:
                raise _Again(f"nothing came for {self._limits.stall_s:g} s") from None
            if not chunk:
                return
            num_bytes, waited_s = num_bytes + len(chunk), waited_s + clock() - began_s
            yield chunk
            if waited_s >= self._limits.stall_s:
                if num_bytes < LEAST_BYTES_PER_S * waited_s:
                    raise _Again(f"next to nothing came for {self._limits.stall_s:g} s")
                num_bytes, waited_s = 0, 0.0

    def _check_unchanged(self, file: RemoteFile, first: Mapping[str, str], answer: httpx.Response) -> None:
        if answer.status_code not in (200, 206, 416):
            return  # it is not about the file, nor is its tag
        said = sha256_in(first.get("x-linked-etag", ""))
        total = total_bytes(answer.status_code, answer.headers)
        etag = answer.headers.get("etag", "")
        changed = (said and file.sha256 and said != file.sha256) or answer.status_code == 416
        if changed or (total is not None and total != file.size_bytes) or (file.etag and etag and etag != file.etag):
            raise SourceChanged(
                f"{file.name} has changed at {urlsplit(file.url).hostname} since this pull began: pull again"
            )

    def _check_range(self, file: RemoteFile, answer: httpx.Response, start: int) -> int:
        """Bytes to pass over before the range that was asked for."""
        if answer.status_code == 206:
            if not answer.headers.get("content-range", "").startswith(f"bytes {start}-"):
                raise _Again("it sent another range than was asked for")
            return 0
        if answer.status_code != 200:
            self._complain(answer)
        if start > MAX_SKIPPED_BYTES:
            raise _Again("it sent the whole file where a part was asked for")
        return start

    # --- one request

    @asynccontextmanager
    async def _open(
        self, url: str, headers: Mapping[str, str], first: dict[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """The answer behind all redirects; `first` gets the headers of those on the way."""
        at, is_new = self._leads_to.get(url, url), False
        for _ in range(MAX_REDIRECTS + 1):
            async with self._send(at, headers) as answer:
                if answer.is_redirect and "location" in answer.headers:
                    for key, value in answer.headers.items():
                        if first is not None:
                            first.setdefault(key.lower(), value)
                    at, is_new = _next(at, answer.headers["location"]), True
                    continue
                if at != url and answer.status_code in (401, 403, 404, 410):
                    if is_new:
                        raise _Again(f"the address that it leads to says {answer.status_code}")
                    if self._leads_to.get(url) == at:
                        del self._leads_to[url]
                    at = self._leads_to.get(url, url)  # it has expired: ask again where to go
                    continue
                if answer.status_code in (200, 206):
                    if is_packed(answer.headers):
                        raise SourceFailed(f"{urlsplit(at).hostname} sends packed what was not asked for so: {url}")
                    if at != url:
                        self._leads_to[url] = at
                yield answer
                return
        raise SourceFailed(f"{url} leads on to other addresses without end")

    @asynccontextmanager
    async def _send(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        import httpx

        token = self._tokens.get(origin_of(url))
        own = {**headers, "Accept-Encoding": "identity", **({"Authorization": f"Bearer {token}"} if token else {})}
        check_scheme(url, token is not None)
        limits = self._limits
        try:
            answer = await self._answer(url, own)
            try:
                yield answer
            finally:
                await answer.aclose()
        except httpx.TimeoutException as error:
            slow = "no answer" if isinstance(error, httpx.ConnectTimeout) else "nothing came"
            limit_s = limits.connect_s if isinstance(error, httpx.ConnectTimeout) else limits.stall_s
            raise _Again(f"{slow} for {limit_s:g} s") from None
        except httpx.TransportError as error:
            raise _Again(_words(error)) from None
        except httpx.StreamError as error:
            raise SourceFailed(f"{urlsplit(url).hostname}: {error}") from None

    async def _answer(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        """Its headers; its body is still to come."""
        import httpx

        try:
            async with asyncio.timeout(self._limits.headers_s):
                return await self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
        except TimeoutError:
            raise _Again(f"no answer for {self._limits.headers_s:g} s") from None
        except (httpx.InvalidURL, UnicodeError):  # (httpx looks at a Location, too)
            raise SourceFailed(f"{urlsplit(url).hostname} is no address of the web, or leads to none") from None

    def _complain(self, answer: httpx.Response) -> None:
        """Raises what follows from a status that is no success."""
        status = answer.status_code
        if status in (401, 403, 404, 410):
            raise Denied(status, answer.headers.get("x-error-code", ""))
        if status == 429 or status >= 500:
            what = "it says that we ask too much" if status == 429 else f"it fails ({status})"
            raise _Again(what, retry_after_s(answer.headers))
        raise SourceFailed(f"{answer.request.url.host} answers {status}")


def _client(limits: Limits) -> httpx.AsyncClient:
    """By proxies and certificates of the environment. Raises BadInput."""
    import httpx

    try:
        return httpx.AsyncClient(timeout=httpx.Timeout(limits.stall_s, connect=limits.connect_s), trust_env=True)
    except ImportError:
        raise BadInput(
            "the environment names a SOCKS proxy, which is not spoken here (ALL_PROXY, HTTPS_PROXY)"
        ) from None
    except (httpx.InvalidURL, OSError, ValueError) as error:
        raise BadInput(
            "the environment names a proxy or certificates that cannot be used (ALL_PROXY, HTTPS_PROXY, HTTP_PROXY, "
            f"SSL_CERT_FILE, SSL_CERT_DIR): {error}"
        ) from None


def origin_of(url: str) -> str:
    """Of what `check_address` has let pass."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def check_scheme(url: str, secret: bool) -> None:
    """Nothing secret, and no redirect from TLS, goes over a plain connection, but on this machine. Raises BadInput."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (not secret and parts.scheme == "http") or _is_here(parts.hostname or ""):
        return
    raise BadInput(f"{parts.scheme}://{parts.hostname}: a token is not sent without TLS; use https")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _next(url: str, location: str) -> str:
    """Raises SourceFailed: a Location is a stranger's word."""
    here = urlsplit(url)
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
        if here.scheme == "https" and scheme != "https":
            raise SourceFailed(f"{here.hostname} leads from https to {scheme}: not followed")
        check_address(target)
    except ValueError:
        raise SourceFailed(f"{here.hostname} leads to what is no address of the web: not followed") from None
    return target


def _words(error: httpx.TransportError) -> str:
    import httpx

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise SourceFailed(f"its certificate is not valid ({cause.verify_message})") from None
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.RemoteProtocolError):
        return "its answer ended early"
    return f"it cannot be reached ({error})" if isinstance(error, httpx.ConnectError) else f"the link broke ({error})"
