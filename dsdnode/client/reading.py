"""What a prompt comes to, asked of drafters: its ids, and their text. One after the other until one says it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from dsdnode.client.asking import ASK_TIMEOUT_S, check_can
from dsdnode.client.drafters import Drafters, no_drafter
from dsdnode.client.failures import Failures
from dsdnode.client.losses import LOSSES, said
from dsdnode.client.part import ids_of
from dsdnode.client.request import PendingReply
from dsdnode.errors import DsdError, Overloaded, PeerMisbehaved, PeerUnavailable
from dsdnode.net.port import TOOLS, Priority
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.pings import Pings
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import buffer_at


@dataclass(frozen=True, slots=True)
class TextRead:
    """`text`: of the ids; control tokens have none."""

    tokens: tuple[int, ...]
    text: str


async def read_text(rpc: Rpc, pings: Pings, drafters: Drafters, pending: PendingReply) -> TextRead:
    """Raises NoPipeline (nobody says it), Overloaded (nobody has time for it), or what the first that said so has
    against it."""
    failures = Failures()
    _, body = pending.begin()
    while True:
        drafter = await drafters.next(pending, failures)
        try:
            await check_can(rpc, pings, drafter, TOOLS)
            question = replies.ReadText()
            answer, buffers = await rpc.request(
                drafter, question, [body], timeout_s=ASK_TIMEOUT_S, priority=Priority.CONTROL
            )
            return _read(answer, buffers)
        except LOSSES as error:
            failures.note(drafter, error, 0)
            if pending.patience.is_spent(asyncio.get_running_loop().time()):
                raise (error if isinstance(error, Overloaded) else no_drafter(pending, failures)) from None


def _read(answer: wire.Message, buffers: Sequence[bytes]) -> TextRead:
    """Raises DsdError."""
    if isinstance(answer, wire.Refused):
        raise Overloaded(answer.reason) if answer.retry else PeerUnavailable(answer.reason)
    if isinstance(answer, replies.Finished):
        error: DsdError = said(answer)
        raise error
    if not isinstance(answer, replies.TextRead):
        raise PeerMisbehaved(f"{type(answer).__name__} is no answer to ReadText")
    return TextRead(ids_of(buffers), buffer_at(buffers, 1).decode("utf-8", "replace"))
