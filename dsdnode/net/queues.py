"""Bounded queues of whole messages: one before each connection, by priority, and one behind them all, by sender."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

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


class Inbox:
    """Messages received, in order of arrival, until the one reader takes them."""

    def __init__(self) -> None:
        self._messages: deque[tuple[bytes, list[bytes], int]] = deque()
        self._held: dict[bytes, tuple[int, int]] = {}
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self.num_dropped = 0

    def put(self, peer: bytes, frames: Sequence[bytes]) -> None:
        """Drops the message when its sender, or everybody together, has too many here already."""
        size_bytes = sum(map(len, frames))
        num_messages, num_bytes = self._held.get(peer, (0, 0))
        if (
            num_messages >= MAX_PEER_MESSAGES
            or num_bytes + size_bytes > MAX_PEER_BYTES
            or self._bytes + size_bytes > MAX_INBOX_BYTES
        ):
            self.num_dropped += 1
            return
        self._held[peer] = num_messages + 1, num_bytes + size_bytes
        self._bytes += size_bytes
        self._messages.append((peer, list(frames), size_bytes))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> tuple[bytes, list[bytes]]:
        """The oldest message. For one reader only; cancelling it loses nothing."""
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        peer, frames, size_bytes = self._messages.popleft()
        num_messages, num_bytes = self._held.pop(peer)
        if num_messages > 1:
            self._held[peer] = num_messages - 1, num_bytes - size_bytes
        self._bytes -= size_bytes
        return peer, frames
