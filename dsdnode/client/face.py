"""The library's public face: `dsdnode.connect`, for asyncio and for plain code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from dsdnode.client.client import Client
from dsdnode.client.part import Piece
from dsdnode.client.request import Finished, GenerateRequest
from dsdnode.config import DEFAULT_PATIENCE_S
from dsdnode.swarm.info import ModelInfo, PeerInfo

Messages = Sequence[dict[str, Any]]


class Reply:
    """`async for piece in reply`: its Pieces as they come; then `finished` says why it ended, with its figures.

    Leaving the loop early ends the reply everywhere once `aclose` was called, or the swarm is left.
    """

    def __init__(self, client: Client, request: GenerateRequest) -> None:
        self.request = request
        self.text = ""
        self.finished: Finished | None = None
        self._events = client.generate(request)

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        """Raises what Client.generate raises; `text` keeps what came before."""
        async for event in self._events:
            if isinstance(event, Piece):
                self.text += event.text
                return event
            self.finished = event
        raise StopAsyncIteration

    async def whole(self) -> str:
        """All of its text, once it is over."""
        async for _ in self:
            pass
        return self.text

    async def aclose(self) -> None:
        await self._events.aclose()


class Swarm:
    """A swarm, as a program asks it. `options`: the other fields of GenerateRequest."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def chat(self, messages: Messages, **options: Any) -> Reply:
        """Answer a conversation of {"role", "content"}. What is cached of it is kept a while for the next turn. Of
        `tools` (OpenAI's functions) that the model calls, pieces have `calls`."""
        return Reply(self.client, GenerateRequest(messages=messages, **{"keep": True, **options}))

    def complete(self, text: str, **options: Any) -> Reply:
        """Go on with a text as it is."""
        return Reply(self.client, GenerateRequest(prompt=text, **options))

    async def models(self) -> list[ModelInfo]:
        return await self.client.models()

    async def peers(self) -> list[PeerInfo]:
        return await self.client.peers()


class BlockingReply:
    """As Reply, for plain code: `for piece in reply`."""

    def __init__(self, portal: BlockingPortal, reply: Reply) -> None:
        self._portal = portal
        self._reply = reply

    @property
    def text(self) -> str:
        return self._reply.text

    @property
    def finished(self) -> Finished | None:
        return self._reply.finished

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        piece: Piece | None = self._portal.call(anext, self._reply, None)
        if piece is None:
            raise StopIteration
        return piece

    def whole(self) -> str:
        return self._portal.call(self._reply.whole)

    def close(self) -> None:
        self._portal.call(self._reply.aclose)


class BlockingSwarm:
    """As Swarm, for plain code: the sockets live in a thread of their own."""

    def __init__(self, portal: BlockingPortal, swarm: Swarm) -> None:
        self._portal = portal
        self._swarm = swarm

    def chat(self, messages: Messages, **options: Any) -> BlockingReply:
        return BlockingReply(self._portal, self._portal.call(lambda: self._swarm.chat(messages, **options)))

    def complete(self, text: str, **options: Any) -> BlockingReply:
        return BlockingReply(self._portal, self._portal.call(lambda: self._swarm.complete(text, **options)))

    def models(self) -> list[ModelInfo]:
        return self._portal.call(self._swarm.models)

    def peers(self) -> list[PeerInfo]:
        return self._portal.call(self._swarm.peers)


class connect:
    """A peer of our own in a swarm, for as long as the block lasts: `async with dsdnode.connect(...) as swarm`, or
    `with dsdnode.connect(...) as swarm` in plain code.

    `joins`: join strings of any members; `swarm_keys`: of a private swarm; `patience_s`: so long a reply may stand
    still. Entering raises BadInput (malformed join string) and PeerUnavailable (nobody answers, or refuses us).
    """

    def __init__(
        self,
        *joins: str,
        swarm_keys: str | tuple[str, ...] = (),
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> None:
        self._joins = joins
        self._swarm_keys = swarm_keys
        self._patience_s = patience_s
        self._async = AsyncExitStack()
        self._blocking = ExitStack()

    async def __aenter__(self) -> Swarm:
        client = await Client.connect(self._joins, self._swarm_keys, self._patience_s)
        self._async.push_async_callback(client.close)
        return Swarm(client)

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._async.aclose()

    def __enter__(self) -> BlockingSwarm:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            swarm = stack.enter_context(portal.wrap_async_context_manager(self))
            self._blocking = stack.pop_all()
        return BlockingSwarm(portal, swarm)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """By Ctrl-C, or another exception: what is awaited still, a reply's next piece, is ended and not waited for."""
        self._blocking.__exit__(kind, error, trace)
