"""Fetches what a plan says from several providers at once, hashes it as it comes, and leaves who gives wrong bytes."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

from dsdnode.engine.gguf_header import Tensor
from dsdnode.errors import DsdError
from dsdnode.weights.plan import Plan
from dsdnode.weights.target import DiskTrouble, Target
from dsdnode.weights.web import SourceFailed

PEER = "peer "
"""Names of peers begin so, here and in journals."""
FIRST_BLOCKS, RUN_BLOCKS = 4, 64
"""Of one request: the first one to a source (to a peer it is one block), and the largest."""
RUN_S = 2.0
"""As much as comes in so long is asked for at once: at the end nobody waits longer for the slowest. (With 16 MiB each,
four requests to a hub of 2 MB/s kept a member of 50 MB/s waiting for half a minute.)"""
MAX_LOOKED_BLOCKS = 4096
"""One after the other; then whatever else this process does has its turn."""
LATE_S = 2 * RUN_S
"""Whoever has nothing else to do fetches what was asked of another one so long ago: the first to give it counts."""
COMPARE_S = 30.0
"""And twice a member's share of the time that as much took so far: whoever is asked for all of a tensor that is wrong
has so long. Who lied of it may have given most of all, and let others wait now."""


class Provider(Protocol):
    """Where bytes come from. `is_peer`: what it gives counts by a tensor's hash alone."""

    name: str
    num_lanes: int
    is_peer: bool

    def has(self, start: int, end: int) -> bool: ...

    def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Raises DsdError: it is of no more use."""


@dataclass(eq=False, slots=True)
class _Run:
    """Blocks that are being fetched, by one request."""

    provider: Provider
    blocks: range
    began_s: float


class Fetch:
    def __init__(
        self,
        plan: Plan,
        target: Target,
        tell: Callable[[str], None],
        progress: Callable[[str, int], None],
    ) -> None:
        self._plan = plan
        self._target = target
        self._providers: list[Provider] = []
        self._hashes: dict[str, str] = {}
        self.found: dict[str, str] = {}
        """Of the tensors that are there."""
        self._tell = tell
        self._progress = progress
        self._lanes: list[asyncio.Task[None]] = []
        self._runs: dict[_Run, None] = {}
        self._claimed: Counter[int] = Counter()
        """In how many of them a block is."""
        self._looked: dict[str, int] = {}
        """By provider: none of the blocks before this one can be asked of it, as long as none comes back. (Were each
        looked at anew whenever something has come, that would take most of the time, of members that have others.)"""
        self._changed = asyncio.Condition()
        self._failure: DsdError | None = None
        self._checking: dict[str, bool] = {}
        """Tensors that are being hashed; True: something of it was dropped meanwhile."""
        self.distrusted = False
        self._denied: dict[str, str] = {}
        """Tensors whose bytes from a source itself were not as the hashes say, and what their hash was."""
        self._proven: set[str] = set()
        """Peers that have given wrong bytes, beyond doubt."""
        self._began_s = 0.0
        self._came_bytes = 0
        """Since then."""

    async def run(self, providers: Sequence[Provider], hashes: Mapping[str, str]) -> None:
        """Until all is there. `hashes`: SHA-256 in hex, of those tensors of which it is known.

        Raises the last provider's DsdError, and what the disk says.
        """
        self._providers, self._hashes, self._looked = list(providers), dict(hashes), {}
        self._began_s, self._came_bytes = asyncio.get_running_loop().time(), 0
        self.drop(self._doubtful())
        await self._check(self._plan.tensors)
        lanes = [self._lane(provider) for provider in self._providers for _ in range(provider.num_lanes)]
        try:
            async with asyncio.TaskGroup() as group:
                self._lanes = [group.create_task(lane) for lane in lanes]
        except* DsdError as errors:
            raise errors.exceptions[0] from None
        if not self._is_done:
            raise self._failure or SourceFailed("nobody is left who has what is missing")

    def _doubtful(self) -> list[int]:
        """What members gave, in a pull before this one, of tensors whose hash nobody tells this time; and of layers,
        which nothing tells at the end, what another source gave of such."""
        sources = {one.name for one in self._providers if not one.is_peer}
        return [
            index
            for index, name in self._target.suppliers.items()
            if name.startswith(PEER) or (name not in sources and not self._plan.is_whole)
            if any(one.name not in self._hashes for one in self._tensors_in(index))
        ]

    @property
    def _is_done(self) -> bool:
        return len(self._target.suppliers) == len(self._plan.blocks) and not self._checking

    async def _lane(self, provider: Provider) -> None:
        """One request at a time. It ends when nothing can be missing any more that this one has; when all is there it
        ends the others, who may still be waited for."""
        loop, num_blocks = asyncio.get_running_loop(), 1 if provider.is_peer else FIRST_BLOCKS
        while provider in self._providers and not self._is_done:
            blocks = self._next(provider, num_blocks)
            if not blocks and self._has_more(provider):
                await asyncio.sleep(0)
                continue
            blocks = blocks or self._late(provider, loop.time())
            if blocks:
                began_s = loop.time()
                await self._fetch_run(_Run(provider, blocks, began_s))
                took_s = loop.time() - began_s
                num_blocks = max(1, min(2 * len(blocks), RUN_BLOCKS, int(len(blocks) * RUN_S / max(took_s, 1e-3))))
            elif self._runs or self._checking or any(map(self._has_more, self._providers)):  # it may come back
                await self._change(provider, loop.time())
            else:
                break
        if self._is_done:
            for lane in self._lanes:
                if lane is not asyncio.current_task():
                    lane.cancel()
        await self._wake()

    async def _change(self, provider: Provider, now_s: float) -> None:
        """Wait for one, or until something is late."""
        due_s = [run.began_s + LATE_S - now_s for run in self._runs if run.provider is not provider]
        with suppress(TimeoutError):
            async with asyncio.timeout(min((one for one in due_s if one > 0), default=None)), self._changed:
                await self._changed.wait()

    async def _fetch_run(self, run: _Run) -> None:
        provider = run.provider
        self._runs[run] = None
        self._claimed.update(run.blocks)
        try:
            await self._fetch(provider, run.blocks)
        except DiskTrouble:
            raise
        except DsdError as error:
            self._failure = error
            self._leave(provider, str(error))
        finally:
            del self._runs[run]
            self._claimed -= Counter(run.blocks)  # (what is 0 goes)
            self._look_again(index for index in run.blocks if index not in self._target.suppliers)
            await self._wake()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _has_more(self, provider: Provider) -> bool:
        """There are blocks that were not looked at."""
        return self._looked.get(provider.name, 0) < len(self._plan.blocks)

    def _look_again(self, indices: Iterable[int]) -> None:
        """These blocks may be asked of anybody once more."""
        first = min(indices, default=len(self._plan.blocks))
        self._looked = {name: min(looked, first) for name, looked in self._looked.items()}

    def _next(self, provider: Provider, num_blocks: int) -> range:
        """The next blocks that nobody has or fetches, one behind the other. Empty: none was found so far."""
        blocks, first = self._plan.blocks, self._looked.get(provider.name, 0)
        until = min(len(blocks), first + MAX_LOOKED_BLOCKS)
        while first < until and not self._is_free(provider, first):
            first += 1
        self._looked[provider.name] = end = first
        while (
            end < min(until, first + num_blocks)
            and (end == first or blocks[end].start == blocks[end - 1].end)
            and self._is_free(provider, end)
        ):
            end += 1
        return range(first, end)

    def _late(self, provider: Provider, now_s: float) -> range:
        """The last block of what another one has been giving for too long, if so has whoever took that over."""
        late = [run for run in self._runs if run.provider is not provider and now_s >= run.began_s + LATE_S]
        taken = {index for run in self._runs if run not in late for index in run.blocks}
        for run in late:
            for index in reversed(run.blocks):
                block = self._plan.blocks[index]
                is_missing = index not in self._target.suppliers and index not in taken
                if is_missing and provider.has(block.start, block.end):
                    return range(index, index + 1)
        return range(0)

    def _is_free(self, provider: Provider, index: int) -> bool:
        block = self._plan.blocks[index]
        taken = index in self._target.suppliers or index in self._claimed
        return not taken and provider.has(block.start, block.end)

    async def _fetch(self, provider: Provider, run: range) -> None:
        blocks, buffer, index = self._plan.blocks, bytearray(), run.start
        async with aclosing(provider.read(blocks[run.start].start, blocks[run.stop - 1].end)) as chunks:
            async for chunk in chunks:
                buffer += chunk
                while index < run.stop and len(buffer) >= (size_bytes := blocks[index].size_bytes):
                    if provider not in self._providers or index in self._target.suppliers:
                        return
                    self._target.write(index, bytes(buffer[:size_bytes]), provider.name)
                    del buffer[:size_bytes]
                    self._progress(provider.name, size_bytes)
                    self._came_bytes += size_bytes
                    await self._check(self._tensors_in(index))
                    index += 1

    def _tensors_in(self, index: int) -> list[Tensor]:
        """Those of which something lies in this block."""
        block, tensors = self._plan.blocks[index], self._plan.tensors
        first = bisect_right(tensors, block.start, key=lambda tensor: tensor.offset + tensor.size_bytes)
        last = bisect_left(tensors, block.end, key=lambda tensor: tensor.offset)
        return list(tensors[first:last])

    async def _check(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            while self._is_due(tensor):
                await self._hash(tensor)

    def _is_due(self, tensor: Tensor) -> bool:
        """It is whole, and nobody has hashed it, or does."""
        if tensor.name in self.found or tensor.name in self._checking:
            return False
        return all(index in self._target.suppliers for index in reversed(self._plan.blocks_of(tensor)))

    async def _hash(self, tensor: Tensor) -> None:
        name = tensor.name
        self._checking[name] = False
        odd: list[int] = []
        try:
            digest = await self._target.sha256_of(tensor)
            is_wrong = self._hashes.get(name, digest) != digest
            if is_wrong:
                odd = await self._odd(tensor)
        finally:
            was_dropped = self._checking.pop(name)
        if was_dropped:  # other bytes than these may be there by now, or come yet
            return
        self.found[name] = digest
        if is_wrong:
            self._is_wrong(tensor, digest, odd)

    async def _odd(self, tensor: Tensor) -> list[int]:
        """By whose blocks a tensor is wrong that several have given of, members among them: one after the other is
        asked for all of it, the source first, until one gives it right. Empty: nobody can tell, or the source says
        that the hash is wrong."""
        givers = {index: self._target.suppliers.get(index, "") for index in self._plan.blocks_of(tensor)}
        names = set(givers.values())
        if self._proven.isdisjoint(names) and len(names) > 1 and any(name.startswith(PEER) for name in names):
            num_given = Counter(self._target.suppliers.values())
            for provider in sorted(
                self._providers, key=lambda one: (one.is_peer, -num_given[one.name])
            ):  # the quickest
                if provider in self._providers:
                    odd = await self._compared(provider, tensor)
                    if odd is not None:
                        return odd
                    if not provider.is_peer and tensor.name in self._denied:
                        return []
        return [index for index, name in givers.items() if name in self._proven]

    async def _compared(self, provider: Provider, tensor: Tensor) -> list[int] | None:
        """With what this one gives of it; None: it does not, or that is wrong."""
        if not provider.has(tensor.offset, tensor.offset + tensor.size_bytes):
            return None
        try:
            async with asyncio.timeout(self._patience_s(tensor) if provider.is_peer else None):
                digest, odd = await self._alone(provider, tensor)
        except DiskTrouble:
            raise
        except TimeoutError:
            return None
        except DsdError as error:
            self._failure = error
            self._leave(provider, str(error))
            return None
        if digest == self._hashes.get(tensor.name):
            return odd
        if provider.is_peer:
            self._prove([provider.name], tensor)
        else:
            self._denied[tensor.name] = digest
        return None

    def _patience_s(self, tensor: Tensor) -> float | None:
        if not self._came_bytes:
            return None
        took_s = asyncio.get_running_loop().time() - self._began_s
        return COMPARE_S + 2 * len(self._providers) * took_s * tensor.size_bytes / self._came_bytes

    async def _alone(self, provider: Provider, tensor: Tensor) -> tuple[str, list[int]]:
        """The SHA-256 of what it gives of a tensor, and the blocks in which other bytes are there."""
        start, end = tensor.offset, tensor.offset + tensor.size_bytes
        digest, buffer, odd = hashlib.sha256(), bytearray(), list[int]()
        blocks = deque((index, self._plan.blocks[index]) for index in self._plan.blocks_of(tensor))
        async with aclosing(provider.read(start, end)) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
                buffer += chunk
                while blocks and len(buffer) >= (num_bytes := min(end, blocks[0][1].end) - start):
                    if not self._target.holds(start, bytes(buffer[:num_bytes])):
                        odd.append(blocks[0][0])
                    del buffer[:num_bytes]
                    start = blocks.popleft()[1].end
        return digest.hexdigest(), odd

    def _prove(self, names: Sequence[str], tensor: Tensor) -> None:
        self._proven.update(names)
        self._leave_all(names, f"gave wrong bytes of {tensor.name}")

    def _is_wrong(self, tensor: Tensor, digest: str, odd: Sequence[int]) -> None:
        """Leave the peers that have given of it, if `odd` does not tell which of them, and fetch it elsewhere. What the
        source itself says twice, stands: a manifest is a stranger's word."""
        if odd:  # (what the source gave once, and now otherwise, is fetched again)
            odd_givers = {self._target.suppliers[index] for index in odd}
            self._prove(sorted(name for name in odd_givers if name.startswith(PEER)), tensor)
            self.drop(odd)
            return
        givers = {self._target.suppliers[index] for index in self._plan.blocks_of(tensor)}
        peers = sorted(name for name in givers if name.startswith(PEER))
        if peers:
            self._prove(peers, tensor)
        elif self._denied.get(tensor.name) == digest:
            self._tell(f"the source's own bytes of {tensor.name}, fetched twice, are not what the manifest says")
            self._distrust()
            return
        else:
            self._tell(f"{tensor.name} came with wrong bytes, and is fetched again")
            self._denied[tensor.name] = digest
        self.drop(self._plan.blocks_of(tensor))

    def _distrust(self) -> None:
        """The manifest: then nothing says that what peers gave is right."""
        self._hashes.clear()
        self.distrusted = True
        self._leave_all([one.name for one in self._providers if one.is_peer], "cannot be checked")
        given = [index for index, name in self._target.suppliers.items() if name.startswith(PEER)]
        self.drop(given)

    def drop(self, indices: Sequence[int]) -> None:
        """These blocks were not right."""
        self._look_again(indices)
        for index in indices:
            self._progress(self._target.suppliers[index], -self._plan.blocks[index].size_bytes)
            self._target.drop(index)
            for tensor in self._tensors_in(index):
                self.found.pop(tensor.name, None)
                if tensor.name in self._checking:
                    self._checking[tensor.name] = True

    def _leave_all(self, names: Sequence[str], why: str) -> None:
        for provider in [one for one in self._providers if one.name in names]:
            self._leave(provider, why)

    def _leave(self, provider: Provider, why: str) -> None:
        if provider in self._providers:
            self._providers.remove(provider)
            if any(one.num_lanes > 1 for one in self._providers):  # else the end says it
                self._tell(f"{provider.name} is left: {why}")
