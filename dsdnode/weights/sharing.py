"""A member gives others bytes of the models that it has: in pieces, so many bytes a second, and to each its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import structlog
from cachetools import LRUCache

from dsdnode.accounts import MAX_REMEMBERED, Account
from dsdnode.errors import DsdError, Overloaded
from dsdnode.net.rpc import Response, Rpc
from dsdnode.weights.holdings import Holding
from dsdnode.weights.pace import Pace
from dsdnode.wire.manifests import pack_held
from dsdnode.wire.messages import Refused
from dsdnode.wire.pieces import FindWeights, GetWeights, HasWeights, Weights

MAX_WAIT_S = 15.0
"""Who would wait longer for his turn is told to come later."""
LEAST_BYTES = 16 << 10
"""A question counts as so many: of one byte it is as much work."""

log = structlog.get_logger(__name__)


class NotHere(DsdError):
    """It is not on this machine: ask another one."""


@dataclass(slots=True, eq=False)
class _Waiting:
    account: Account
    num_bytes: int
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Sharing:
    """`find`: what is here of a model, by its weights hash; it may take its time. `refuse`: why a peer gets nothing."""

    def __init__(
        self,
        rpc: Rpc,
        find: Callable[[str], Holding | None],
        bytes_per_s: float,
        refuse: Callable[[bytes], Refused | None] = lambda peer: None,
    ) -> None:
        self._rpc = rpc
        self._refuse = refuse
        self._find = find
        self._bytes_per_s = bytes_per_s
        self._pace = Pace(bytes_per_s)
        self._waiting: dict[_Waiting, None] = {}
        """In the order in which they came. They are few: so many as are served at once (rpc.py)."""
        self._served: LRUCache[Hashable, int] = LRUCache(MAX_REMEMBERED)
        """By network, address and owner: the number of the piece that it got last."""
        self._num_pieces = 0
        self._asked = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self.given_bytes = 0

    def start(self) -> None:
        self._rpc.on_request(FindWeights, self._on_find)
        self._rpc.on_request(GetWeights, self._on_get)
        self._pump = asyncio.create_task(self._give_turns(), name="give weights in turn")

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    def _holding(self, weights_hash: str) -> Holding:
        holding = self._find(weights_hash)
        if holding is None:
            raise NotHere("nothing of this model is given here")
        return holding

    async def _on_find(self, peer: bytes, message: FindWeights, buffers: Sequence[bytes]) -> Response:
        if (refusal := self._refuse(peer)) is not None:
            return refusal, []
        holding = self._holding(message.weights_hash)
        await self._turn(peer, len(holding.signed))
        return HasWeights(), [holding.signed, pack_held(holding.held())]

    async def _on_get(self, peer: bytes, message: GetWeights, buffers: Sequence[bytes]) -> Response:
        if (refusal := self._refuse(peer)) is not None:
            return refusal, []
        holding = self._holding(message.weights_hash)
        place = holding.places.get(message.tensor)
        if place is None or message.offset + message.num_bytes > place.size_bytes:
            raise NotHere("this part of the model is not here")
        await self._turn(peer, message.num_bytes)
        try:
            data = await asyncio.to_thread(holding.read, message.tensor, message.offset, message.num_bytes)
        except OSError as error:
            raise NotHere(f"the model's file cannot be read any more ({error.strerror})") from None
        if len(data) != message.num_bytes:
            raise NotHere("the model's file is shorter than it was")
        self.given_bytes += len(data)
        return Weights(), [data]

    async def _turn(self, peer: bytes, num_bytes: int) -> None:
        """Raises Overloaded."""
        waiting = _Waiting(self._rpc.account_of(peer), max(num_bytes, LEAST_BYTES))
        ahead = sum(one.num_bytes for one in self._waiting if one.account == waiting.account)
        if ahead and ahead + waiting.num_bytes > self._bytes_per_s * MAX_WAIT_S:
            raise Overloaded("so much was asked for already that it would take too long")
        self._waiting[waiting] = None
        self._asked.set()
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await waiting.turn
        except TimeoutError:
            raise Overloaded("others were in turn for too long") from None
        finally:  # whoever asked may have gone
            self._waiting.pop(waiting, None)

    async def _give_turns(self) -> None:
        """Networks take turns, in each its addresses, at each of these its owners: who had one longest ago."""
        while True:
            while not self._waiting:
                self._asked.clear()
                await self._asked.wait()
            chosen = min(self._waiting, key=lambda one: [self._served.get(key, -1) for key in _levels(one.account)])
            del self._waiting[chosen]
            if chosen.turn.done():  # nobody waits for it any more
                continue
            self._num_pieces += 1
            self._served.update(dict.fromkeys(_levels(chosen.account), self._num_pieces))
            chosen.turn.set_result(None)
            await self._pace.take(chosen.num_bytes)
            await asyncio.sleep(0)


def _levels(account: Account) -> tuple[Hashable, ...]:
    return account.network, account.place, account
