"""Members of the swarm as providers: what they have of a model, and by whose word that is right.

A manifest is a stranger's word. Of those whose makers say that they hashed the whole file, all must agree on a tensor,
or nobody's bytes of it are taken; what others say counts where none of these is heard. The source's own bytes outweigh
all of them (fetch.py).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dsdnode.engine.gguf_header import DEFAULT_ALIGNMENT_BYTES, Header
from dsdnode.errors import DsdError, PeerMisbehaved, PeerUnavailable
from dsdnode.identity import peer_id, short_id
from dsdnode.net.port import WEIGHTS, Priority
from dsdnode.net.rpc import Rpc
from dsdnode.weights.fetch import PEER
from dsdnode.weights.pace import Pace
from dsdnode.weights.plan import file_starts
from dsdnode.wire.manifests import WeightsManifest, open_manifest, unpack_held
from dsdnode.wire.messages import Refused
from dsdnode.wire.pieces import MAX_PIECE_BYTES, FindWeights, GetWeights, HasWeights, Weights

ASK_S = 10.0
GET_S = 30.0
"""For a piece: longer than a turn is waited for where it is given."""
MAX_ASKED = 16
MAX_LATER = 5
LATER_S = 1.0
"""Before a member that has no room is asked again; twice as long each time."""
NO_ROOM = "has no room for us"
NUM_LANES = 2
LEAST_PIECE_BYTES = 64 << 10
"""Is asked for at once of a member that has no room for more."""


@dataclass(frozen=True)
class Member:
    """Who has some of a model, and by which manifest."""

    peer: bytes
    manifest: WeightsManifest
    signed: bytes
    tensors: frozenset[str]

    @property
    def name(self) -> str:
        return short_id(self.peer)

    def agrees(self, hashes: Mapping[str, str]) -> bool:
        """Does its manifest say of all these tensors what we have found?"""
        said = {one.name: one.sha256.hex() for one in self.manifest.tensors}
        return all(said.get(name) == sha256 for name, sha256 in hashes.items())


async def who_has(rpc: Rpc, peers: Iterable[bytes], weights_hash: str) -> list[Member]:
    """Ask so many of them at once; who does not answer rightly is left out.

    Of a model in parts anybody could say that it is one file, of just this hash; nobody can say of one file that it is
    parts. So who says the most files is right.
    """
    able = [peer for peer in dict.fromkeys(peers)][:MAX_ASKED]
    answers = await asyncio.gather(*(_ask(rpc, peer, weights_hash) for peer in able))
    members = [one for one in answers if one is not None]
    num_files = max((len(one.manifest.files) for one in members), default=0)
    return [one for one in members if len(one.manifest.files) == num_files]


async def _ask(rpc: Rpc, peer: bytes, weights_hash: str) -> Member | None:
    try:
        if not rpc.transport.can(peer, WEIGHTS):
            await rpc.ping(peer, timeout_s=ASK_S)  # now its greeting is known
        if not rpc.transport.can(peer, WEIGHTS):
            return None
        answer, buffers = await rpc.request(peer, FindWeights(weights_hash), timeout_s=ASK_S)
        if not isinstance(answer, HasWeights):
            return None
        if len(buffers) != 2:
            raise PeerMisbehaved("an answer of what is there without it")
        manifest = open_manifest(buffers[0], weights_hash)
        held = unpack_held(buffers[1], len(manifest.tensors))
    except PeerMisbehaved as error:
        rpc.misbehaved(peer, error)
        return None
    except DsdError:
        return None
    names = frozenset(one.name for one, here in zip(manifest.tensors, held, strict=True) if here)
    return Member(peer, manifest, buffers[0], names)


def agreed(members: Sequence[Member]) -> tuple[dict[str, str], list[str]]:
    """SHA-256 in hex by tensor, as far as nobody who counts says otherwise; and who contradicts whom, in words."""
    manifests = {one.manifest.public_key: one.manifest for one in members}  # of one maker the same counts once
    weighty = [one for one in manifests.values() if one.whole] or list(manifests.values())
    said: dict[str, dict[str, bytes]] = {}
    for manifest in weighty:
        for tensor in manifest.tensors:
            said.setdefault(tensor.name, {})[tensor.sha256.hex()] = manifest.public_key
    disputed = {name: hashes for name, hashes in said.items() if len(hashes) > 1}
    words = [
        f"{' and '.join(sorted(short_id(peer_id(key)) for key in hashes.values()))} say different hashes of {name}: "
        "it is not taken from members"
        for name, hashes in list(disputed.items())[:1]
    ]
    return {name: next(iter(hashes)) for name, hashes in said.items() if name not in disputed}, words


class FromMember:
    """The tensors of a model that a member has, of those whose hash is agreed on. What is before a file's tensors is in
    hand when these are asked for: it would be hashed by nobody again."""

    num_lanes = NUM_LANES
    is_peer = True

    def __init__(
        self, rpc: Rpc, member: Member, hashes: Iterable[str], header: Header, sizes: Sequence[int], pace: Pace
    ) -> None:
        """`sizes` of the model's files, in bytes."""
        self.name = PEER + member.name
        self._rpc = rpc
        self._member = member
        self._pace = pace
        self._piece_bytes = MAX_PIECE_BYTES
        known = member.tensors & set(hashes)
        places = [(one.offset, one.size_bytes, one.name) for one in header.tensors.values() if one.name in known]
        self._places = sorted(places)
        self._starts = [place[0] for place in self._places]
        self._gap_bytes = header.count("general.alignment", DEFAULT_ALIGNMENT_BYTES)
        self._tails: dict[int, int] = {}
        """By a file's end: that of its last tensor."""
        ends = file_starts(sizes)[1:]
        for tensor in header.tensors.values():
            file_end, end = ends[bisect_right(ends, tensor.offset)], tensor.offset + tensor.size_bytes
            self._tails[file_end] = max(self._tails.get(file_end, 0), end)

    def has(self, start: int, end: int) -> bool:
        """But for what lies between tensors, and behind the last one, which is zeros."""
        if end - start < self._gap_bytes and self._tails.get(end, end) <= start:
            return True
        at = start
        for offset, size_bytes, _ in self._within(start, end):
            if offset - at >= self._gap_bytes:
                return False
            at = offset + size_bytes
        return end - at < self._gap_bytes and at > start

    def _within(self, start: int, end: int) -> list[tuple[int, int, str]]:
        first = max(0, bisect_right(self._starts, start) - 1)
        last = bisect_right(self._starts, end - 1)
        return [one for one in self._places[first:last] if one[0] + one[1] > start]

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Raises PeerUnavailable, PeerMisbehaved."""
        for offset, size_bytes, name in self._within(start, end):
            if offset > start:
                yield bytes(offset - start)
                start = offset
            stop = min(end, offset + size_bytes)
            while start < stop:
                piece = await self._piece(name, start - offset, stop - start)
                yield piece
                start += len(piece)
        if start < end:
            yield bytes(end - start)

    async def _piece(self, name: str, offset: int, most_bytes: int) -> bytes:
        """Half as much is asked for each time that it has no room, and twice as much when it had some: of a member with
        a slow line two large pieces take longer than it lets anybody wait."""
        weights_hash = self._member.manifest.weights_hash
        for attempt in range(MAX_LATER):
            num_bytes = min(self._piece_bytes, most_bytes)
            data = await _given(self._rpc, self._member.peer, GetWeights(weights_hash, name, offset, num_bytes))
            if data is not None:
                self._piece_bytes = min(2 * self._piece_bytes, MAX_PIECE_BYTES)
                await self._pace.take(num_bytes)
                return data
            self._piece_bytes = max(num_bytes // 2, LEAST_PIECE_BYTES)
            await asyncio.sleep(LATER_S * 2**attempt)
        raise PeerUnavailable(NO_ROOM)


async def get(rpc: Rpc, peer: bytes, message: GetWeights) -> bytes:
    """Just what was asked for. Raises PeerUnavailable, PeerMisbehaved."""
    for attempt in range(MAX_LATER):
        if (data := await _given(rpc, peer, message)) is not None:
            return data
        await asyncio.sleep(LATER_S * 2**attempt)
    raise PeerUnavailable(NO_ROOM)


async def _given(rpc: Rpc, peer: bytes, message: GetWeights) -> bytes | None:
    """None: there is no room for us just now. Raises PeerUnavailable, PeerMisbehaved."""
    answer, buffers = await rpc.request(peer, message, timeout_s=GET_S, priority=Priority.BULK)
    if isinstance(answer, Weights) and [len(one) for one in buffers] == [message.num_bytes]:
        return buffers[0]
    if not isinstance(answer, Refused):
        raise PeerMisbehaved("gave other bytes than it was asked for")
    if not answer.retry:
        raise PeerUnavailable(answer.reason)
    return None


def beginning_of(header: Header, start: int, end: int) -> int:
    """Bytes before the tensors of the file that has [start, end) of a model."""
    inside = [tensor.offset for tensor in header.tensors.values() if start <= tensor.offset < end]
    return min(inside, default=end) - start
