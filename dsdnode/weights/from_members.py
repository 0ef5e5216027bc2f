"""A model that members have, and no source that is known: all of it comes from them.

The files' hashes in a manifest must be those that the model's id is made of, so a whole model that comes is right. Of
layers alone a manifest is all there is: whoever said that he hashed the whole file is believed. What the id does not
say is the files' sizes and names: a size must be one that the tensors in it have, and names are made anew where they
would not do.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from math import inf
from pathlib import Path

from dsdnode.engine.gguf import manifest_of
from dsdnode.engine.gguf_header import DEFAULT_ALIGNMENT_BYTES, Header, padded, parse_header
from dsdnode.engine.gguf_parts import join_parts
from dsdnode.errors import DsdError, ModelRefused, PeerMisbehaved, PeerUnavailable
from dsdnode.net.rpc import Rpc
from dsdnode.weights.beginnings import MAX_BEGINNING_BYTES, Looked
from dsdnode.weights.fetch import PEER
from dsdnode.weights.holdings import BEGINNING, plain_names
from dsdnode.weights.members import Member, agreed, get
from dsdnode.weights.pace import Pace
from dsdnode.weights.pull import Pull, Tell
from dsdnode.weights.sources import Remote, RemoteFile, Source
from dsdnode.weights.store import Store, size
from dsdnode.wire.pieces import MAX_PIECE_BYTES, GetWeights

SLACK_S, MOST_S = 20.0, 600.0
LEAST_BYTES_PER_S = 50_000
"""Of a member that gives what lies before the tensors, 10 MB or so, after so much slack: else others are asked first,
and it goes on where nobody else has given it. It is waited for so long at most, each time."""


class _Slow(PeerUnavailable):
    """Others may be quicker."""


async def prepare(
    store: Store,
    rpc: Rpc,
    members: list[Member],
    layers: tuple[int, int] | None,
    weights_hash: str,
    tell: Tell,
    bytes_per_s: float = inf,
) -> Pull:
    """`members`: of `who_has`. Raises ModelRefused (nobody has what is needed of it), BadInput (no such layers)."""
    if not members:
        raise ModelRefused("no member gives this model, and no source of it is known")
    said = max(members, key=lambda one: one.manifest.whole).manifest
    names = plain_names([file.name for file in said.files])
    hashes, disputes = agreed(members)
    for words in disputes:
        tell(words)
    pace = Pace(bytes_per_s)
    asked = _Beginnings(rpc, members, hashes, pace, tell)
    beginnings = [await asked.of(name, index) for index, name in enumerate(names)]
    headers = [await _header(members, name, index, beginnings[index]) for index, name in enumerate(names)]
    files = tuple(
        RemoteFile(header.name, "", header.size_bytes, file.sha256.hex())
        for header, file in zip(headers, said.files, strict=True)
    )
    source = f"{PEER.strip()}s"
    remote = Remote(Source(url=f"{source}:{weights_hash[:12]}"), files, said.licence)
    path = Path(names[0])
    header = join_parts(path, [Path(name) for name in names], headers)
    whole = manifest_of(header, weights_hash, path)
    return Pull(store, Looked(remote, header, beginnings, whole), str(remote.source), layers, None, pace)


async def _header(members: list[Member], name: str, index: int, beginning: bytes) -> Header:
    """Of the sizes that are said of a file, the one that goes with its tensors as files are written: all of them
    padded, else the least that holds them. Raises ModelRefused."""
    sizes = sorted(member.manifest.files[index].size_bytes for member in members)
    header = await asyncio.to_thread(parse_header, beginning, name, sizes[-1])
    if header is None:
        raise ModelRefused(f"{name}: its header does not end before its tensors begin")
    whole = end = max((one.offset + one.size_bytes for one in header.tensors.values()), default=len(beginning))
    if header.tensors:
        whole = padded(end, header.count("general.alignment", DEFAULT_ALIGNMENT_BYTES))
    fitting = [size_bytes for size_bytes in sizes if size_bytes >= end] or sizes[-1:]
    return replace(header, size_bytes=min(fitting, key=lambda size_bytes: (size_bytes != whole, size_bytes)))


class _Beginnings:
    """Of a model's files, what lies before the tensors: from one member after the other, until it is right."""

    def __init__(self, rpc: Rpc, members: list[Member], hashes: dict[str, str], pace: Pace, tell: Tell) -> None:
        self._rpc = rpc
        self._members = members
        self._hashes = hashes
        self._pace = pace
        self._tell = tell
        self._left: set[bytes] = set()
        """Who gave nothing, or wrong bytes, of one file is not asked for the next."""

    async def of(self, file: str, index: int) -> bytes:
        """Raises ModelRefused."""
        name = BEGINNING.format(index)
        givers = [(size_bytes, member, bytearray()) for size_bytes, member in self._givers(name)]
        for least_bytes_per_s in (LEAST_BYTES_PER_S, 0):
            for size_bytes, member, data in sorted(givers, key=lambda one: -len(one[2])):
                try:
                    if member.peer not in self._left:
                        await self._all(member, name, size_bytes, data, least_bytes_per_s)
                        if hashlib.sha256(data).hexdigest() == self._hashes[name]:
                            return bytes(data)
                        raise PeerMisbehaved(f"gave wrong bytes of {name}")
                except _Slow as slow:
                    self._tell(f"{PEER}{member.name} is slow: {slow}")
                    if len(data) > LEAST_BYTES_PER_S * MOST_S:  # quick at first, and then it fills the memory
                        data.clear()
                except DsdError as error:
                    self._tell(f"{PEER}{member.name} is left: {error}")
                    self._left.add(member.peer)
        raise ModelRefused(f"no member gives the beginning of {file}")

    def _givers(self, name: str) -> list[tuple[int, Member]]:
        """With the size that each says, the least one first: one is right at most, and the largest takes longest."""
        said = [
            (tensor.size_bytes, member)
            for member in self._members
            for tensor in member.manifest.tensors
            if tensor.name == name and name in self._hashes and name in member.tensors
        ]
        return sorted((one for one in said if 0 < one[0] <= MAX_BEGINNING_BYTES), key=lambda one: one[0])

    async def _all(self, member: Member, name: str, size_bytes: int, data: bytearray, least_bytes_per_s: float) -> None:
        """Until all is in `data`. Raises DsdError, and _Slow where too little comes for the time that it takes."""
        loop, had_bytes = asyncio.get_running_loop(), len(data)
        waited_s = told_s = 0.0
        while len(data) < size_bytes:
            num_bytes = min(MAX_PIECE_BYTES, size_bytes - len(data))
            await self._pace.take(num_bytes)
            began_s = loop.time()
            data += await get(
                self._rpc, member.peer, GetWeights(member.manifest.weights_hash, name, len(data), num_bytes)
            )
            waited_s += loop.time() - began_s
            if len(data) == size_bytes or waited_s <= SLACK_S:
                continue
            if waited_s > told_s + SLACK_S:
                told_s = waited_s
                self._tell(f"{PEER}{member.name}: {size(len(data))} of {size(size_bytes)} before the tensors are here")
            came_bytes = len(data) - had_bytes
            if waited_s > MOST_S or came_bytes < (waited_s - SLACK_S) * least_bytes_per_s:
                raise _Slow(f"it gave {size(came_bytes)} in {waited_s:.0f} s, and others may be quicker")
