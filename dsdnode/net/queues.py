"""Bounded queues of whole messages: one before each connection, by priority, and one behind them all, by sender."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dsdnode.accounts import Account, Shares
from dsdnode.errors import Overloaded
from dsdnode.net.port import Priority

MAX_QUEUED_MESSAGES = 1024
MAX_QUEUED_BYTES = {
    Priority.CONTROL: 16 * 1024 * 1024,
    Priority.VERIFY: 32 * 1024 * 1024,
    Priority.DRAFT: 16 * 1024 * 1024,
    Priority.BULK: 32 * 1024 * 1024,
}
"""Of one connection."""
MAX_PEER_BYTES = 32 * 1024 * 1024
"""Received from one peer and not taken yet; what comes beyond is dropped."""
MAX_PEER_MESSAGES = 2048
MAX_INBOX_BYTES = 256 * 1024 * 1024


class SendQueue:
    """What waits for a connection: first in, first out within a priority, lower priorities first."""

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[list[bytes]]] = {priority: deque() for priority in Priority}
        self._bytes: dict[Priority, int] = dict.fromkeys(Priority, 0)
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def push(self, frames: list[bytes], priority: Priority) -> None:
        """Raises Overloaded when that priority's queue is full."""
        queue, size_bytes = self._queues[priority], sum(map(len, frames))
        if len(queue) >= MAX_QUEUED_MESSAGES or self._bytes[priority] + size_bytes > MAX_QUEUED_BYTES[priority]:
            raise Overloaded(f"{len(queue)} messages wait for this peer already ({priority.name.lower()})")
        queue.append(frames)
        self._bytes[priority] += size_bytes
        self._num += 1

    def first(self) -> tuple[list[bytes], Priority] | None:
        """The message to be sent next; `pop` takes it away."""
        for priority, queue in self._queues.items():
            if queue:
                return queue[0], priority
        return None

    def pop(self, priority: Priority) -> None:
        self._bytes[priority] -= sum(map(len, self._queues[priority].popleft()))
        self._num -= 1

    def move_to(self, other: SendQueue) -> None:
        """Append everything to another queue; what does not fit is dropped."""
        while (first := self.first()) is not None:
            frames, priority = first
            self.pop(priority)
            try:
                other.push(frames, priority)
            except Overloaded:
                continue


@dataclass(slots=True)
class _Received:
    """Of one sender, in order of arrival."""

    account: Account
    messages: deque[tuple[list[bytes], int]] = field(default_factory=deque)
    num_bytes: int = 0


class Inbox:
    """Messages received, until the one reader takes them: a sender's in order; networks take turns, in each of them its
    addresses, and at each of these its senders, so that nobody waits behind all that somebody else has sent."""

    def __init__(self) -> None:
        self._networks: OrderedDict[str, OrderedDict[str, OrderedDict[bytes, _Received]]] = OrderedDict()
        """Network, address, sender. Whose turn is next comes first, among the networks as in each of them."""
        self._alone: tuple[bytes, list[bytes], str, str] | None = None
        """A message that came while nothing else was here: there is nobody to be fair to, and it needs no place."""
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self.num_dropped = 0

    def put(self, peer: bytes, frames: Sequence[bytes], network: str = "", address: str = "") -> None:
        """Drops the message when its sender has too many here already. When everybody together has, whoever has more
        than a fair share loses: the sender, or others what they sent last."""
        if self._alone is not None:
            alone, self._alone = self._alone, None
            self._queue(*alone)
            self._queue(peer, frames, network, address)
        elif self._networks or sum(map(len, frames)) > MAX_PEER_BYTES:
            self._queue(peer, frames, network, address)
        else:
            self._alone = peer, list(frames), network, address
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _queue(self, peer: bytes, frames: Sequence[bytes], network: str, address: str) -> None:
        size_bytes = sum(map(len, frames))
        addresses = self._networks.get(network)
        senders = addresses.get(address) if addresses is not None else None
        held = senders.get(peer) if senders is not None else None
        if held is None:
            held = _Received(Account(peer, network, address))
        if len(held.messages) >= MAX_PEER_MESSAGES or held.num_bytes + size_bytes > MAX_PEER_BYTES:
            self.num_dropped += 1
            return
        if self._bytes + size_bytes > MAX_INBOX_BYTES and not self._make_room(held.account, size_bytes):
            self.num_dropped += 1
            return
        addresses = self._networks.setdefault(network, OrderedDict())
        senders = addresses.setdefault(address, OrderedDict())
        senders.setdefault(peer, held)
        held.messages.append((list(frames), size_bytes))
        self._count(held, size_bytes)

    async def get(self) -> tuple[bytes, list[bytes]]:
        """The next message. For one reader only; cancelling it loses nothing."""
        while not self._networks and self._alone is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._alone is not None:
            (peer, frames, _, _), self._alone = self._alone, None
            return peer, frames
        network, addresses = next(iter(self._networks.items()))
        address, senders = next(iter(addresses.items()))
        held = next(iter(senders.values()))
        frames, size_bytes = held.messages.popleft()
        self._count(held, -size_bytes)
        if held.messages:
            senders.move_to_end(held.account.owner)
        else:
            del senders[held.account.owner]
        if senders:
            addresses.move_to_end(address)
        else:
            del addresses[address]
        if addresses:
            self._networks.move_to_end(network)
        else:
            del self._networks[network]
        return held.account.owner, frames

    def _make_room(self, asker: Account, size_bytes: int) -> bool:
        shares = Shares(MAX_INBOX_BYTES, ((held.account, held.num_bytes) for held in self._held()))
        for account in shares.over(asker, size_bytes):
            held = self._networks[account.network][account.address][account.owner]
            while held.messages and self._bytes + size_bytes > MAX_INBOX_BYTES:
                self._count(held, -held.messages.pop()[1])
                self.num_dropped += 1
            self._tidy(held)
        return self._bytes + size_bytes <= MAX_INBOX_BYTES

    def _held(self) -> Iterator[_Received]:
        each = (senders for addresses in self._networks.values() for senders in addresses.values())
        return (held for senders in each for held in senders.values())

    def _count(self, held: _Received, size_bytes: int) -> None:
        held.num_bytes += size_bytes
        self._bytes += size_bytes

    def _tidy(self, held: _Received) -> None:
        """Who has nothing here is forgotten."""
        network, address = held.account.place
        addresses = self._networks[network]
        if not held.messages:
            del addresses[address][held.account.owner]
        if not addresses[address]:
            del addresses[address]
        if not addresses:
            del self._networks[network]
