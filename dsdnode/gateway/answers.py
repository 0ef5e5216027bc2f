"""One request's replies, driven: several at once, whole or as they come, and ended when who asked has hung up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from dsdnode.client.client import Finished, GenerateRequest, Piece, ReplyStats
from dsdnode.errors import NotRunning, PeerMisbehaved
from dsdnode.gateway.port import Swarm
from dsdnode.wire.logprobs import SaidPosition

T = TypeVar("T")

ENDS = "the gateway was stopped before the reply had come to its end"


@dataclass(slots=True)
class Call:
    """Of a tool, as far as it has come; `key`: what its id is made of."""

    name: str
    pieces: list[str] = field(default_factory=list)
    """Of its arguments."""
    key: str = field(default_factory=lambda: token_hex(12))

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)

    def parsed(self) -> dict[str, Any]:
        """Its arguments, for dialects that have no JSON text there; what is none comes under a name of its own."""
        try:
            read = msgspec.json.decode(self.arguments or "{}")
        except (msgspec.DecodeError, RecursionError):
            read = None
        return read if isinstance(read, dict) else {"arguments": self.arguments}


FINISH = {"stop": "stop", "length": "length", "context": "length"}
"""By the reasons that a reply ends for. The context's end is one of length to whoever asked."""


@dataclass(slots=True)
class Answer:
    """A reply, as far as it has come."""

    request: GenerateRequest
    pieces: list[str] = field(default_factory=list)
    """Of its text: were each one added to those before, a long reply would be copied with every token."""
    num_characters: int = 0
    calls: list[Call] = field(default_factory=list)
    single: bool = False
    """Of several calls the first is given."""
    num_tokens: int = 0
    logprobs: list[SaidPosition] = field(default_factory=list)
    finish_reason: str = ""
    model: str = ""
    stats: ReplyStats | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def take(self, event: Piece | Finished) -> Piece | Finished:
        """What of it is to be given. Raises PeerMisbehaved: the reason is a drafter's word, which whoever asks would
        take for a whole reply."""
        if isinstance(event, Piece):
            if self.single:
                event = replace(event, calls=tuple(part for part in event.calls if part.index == 0))
            self.pieces.append(event.text)
            self.num_characters += len(event.text)
            self.model = event.model
            self.num_tokens += len(event.tokens)
            self.logprobs += event.logprobs
            for part in event.calls:
                if part.index == len(self.calls):
                    self.calls.append(Call(""))
                self.calls[part.index].name += part.name
                self.calls[part.index].pieces.append(part.arguments)
        elif event.reason in FINISH:
            self.finish_reason, self.stats = FINISH[event.reason], event.stats
            if self.finish_reason == "stop" and self.calls:
                self.finish_reason = "tool_calls"
        else:
            raise PeerMisbehaved(f"the drafter ended the reply: {event.reason}")
        return event


@dataclass(slots=True)
class Answers:
    """Of one request. `events` gives (which reply, what came); the figures are there when it is over."""

    swarm: Swarm
    requests: Sequence[GenerateRequest]
    single: bool = False
    each: list[Answer] = field(init=False)

    def __post_init__(self) -> None:
        self.each = [Answer(request, single=self.single) for request in self.requests]

    async def events(self) -> AsyncGenerator[tuple[int, Piece | Finished], None]:
        """Raises DsdError: of several replies the first that fails ends all."""
        if len(self.requests) == 1:
            async with contextlib.aclosing(self.swarm.generate(self.requests[0])) as events:
                async for event in events:
                    yield 0, self.each[0].take(event)
        else:
            async with contextlib.aclosing(self._together()) as both:
                async for index, event in both:
                    yield index, self.each[index].take(event)
        if not all(answer.finish_reason for answer in self.each):
            raise PeerMisbehaved("the reply ended without a word")

    async def _together(self) -> AsyncGenerator[tuple[int, Piece | Finished], None]:
        """All at once. Whoever reads slowly holds all of them back."""
        came: asyncio.Queue[tuple[int, Piece | Finished | BaseException | None]] = asyncio.Queue(1)
        tasks = [asyncio.create_task(self._into(came, index)) for index in range(len(self.requests))]
        try:
            num_left = len(tasks)
            while num_left:
                index, event = await came.get()
                if event is None:
                    num_left -= 1
                elif isinstance(event, BaseException):
                    raise event
                else:
                    yield index, event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _into(self, came: asyncio.Queue[tuple[int, Any]], index: int) -> None:
        try:
            async with contextlib.aclosing(self.swarm.generate(self.requests[index])) as events:
                async for event in events:
                    await came.put((index, event))
        except Exception as error:
            await came.put((index, error))
        else:
            await came.put((index, None))

    async def whole(self) -> list[Answer]:
        async with contextlib.aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self.each

    def model(self, asked: str | None) -> str:
        """Whose answer it is: `asked` may be a name for whichever is there."""
        return self.each[0].model or asked or "default"

    @property
    def num_prompt_tokens(self) -> int:
        return sum(stats.prompt_tokens for stats in self._of_prompts())

    @property
    def num_reused(self) -> int:
        return sum(stats.prompt_tokens_reused for stats in self._of_prompts())

    def _of_prompts(self) -> Collection[ReplyStats]:
        """Of one reply to each prompt: several to the same one are billed for it once."""
        by_prompt: dict[Any, ReplyStats] = {}
        for answer in self.each:
            if answer.stats is not None:
                by_prompt.setdefault((answer.request.prompt, tuple(answer.request.prompt_tokens or ())), answer.stats)
        return by_prompt.values()

    @property
    def num_completion_tokens(self) -> int:
        return sum(answer.num_tokens for answer in self.each)

    def speculation(self) -> dict[str, Any]:
        """Our own figures of the first reply."""
        answer = self.each[0]
        stats = answer.stats
        if stats is None:
            return {"seed": answer.request.seed}
        return {
            "seed": answer.request.seed,
            "drafted": stats.drafted,
            "accepted": stats.accepted,
            "acceptance_rate": stats.acceptance_rate,
            "passes": stats.passes,
            "tokens_per_second": stats.tokens_per_second,
            "plain_tokens_per_second": stats.plain_tokens_per_second,
            "recoveries": stats.recoveries,
            "acceptance": stats.acceptance,
            "threshold": stats.threshold,
        }

    def route(self) -> str:
        """Who ran which layers, for a header; "" where it is not known."""
        stats = self.each[0].stats
        stages = stats.pipeline if stats is not None else ()
        return ", ".join(f"{stage.layers[0]}:{stage.layers[1]}={stage.peer_id[:12]}" for stage in stages)


async def unless_hung_up(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """`work`, ended at once when who asked has hung up. Raises ClientDisconnect then, NotRunning when the gateway ends
    before it, and what `work` raises.

    The request's body must have been read.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_until_hung_up(request, task))
    try:
        return await task
    except asyncio.CancelledError:
        if watch.done() and not watch.cancelled():
            raise ClientDisconnect from None
        raise NotRunning(ENDS) from None
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _until_hung_up(request: Request, task: asyncio.Task[Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()
