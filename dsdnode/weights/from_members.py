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
from dsdnode.errors import DsdError, ModelRefused, PeerMisbehaved
from dsdnode.net.rpc import Rpc
from dsdnode.weights.fetch import PEER
from dsdnode.weights.holdings import BEGINNING, plain_names
from dsdnode.weights.members import Member, agreed, get
from dsdnode.weights.pace import Pace
from dsdnode.weights.pull import MAX_BEGINNING_BYTES, Looked, Pull, Tell
from dsdnode.weights.sources import Remote, RemoteFile, Source
from dsdnode.weights.store import Store
from dsdnode.wire.pieces import MAX_PIECE_BYTES, GetWeights


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
    hashes, _ = agreed(members)
    beginnings = [await _beginning(rpc, members, name, index, hashes, tell) for index, name in enumerate(names)]
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
    return Pull(store, Looked(remote, header, beginnings, whole), str(remote.source), layers, None, Pace(bytes_per_s))


async def _header(members: list[Member], name: str, index: int, beginning: bytes) -> Header:
    """Of the sizes that are said of a file, the one that goes with its tensors as files are written: all of them
    padded, else the least that holds them. Raises ModelRefused."""
    sizes = {member.manifest.files[index].size_bytes for member in members}
    header = await asyncio.to_thread(parse_header, beginning, name, max(sizes))
    if header is None:
        raise ModelRefused(f"{name}: its header does not end before its tensors begin")
    end = max((tensor.offset + tensor.size_bytes for tensor in header.tensors.values()), default=len(beginning))
    whole = padded(end, header.count("general.alignment", DEFAULT_ALIGNMENT_BYTES))
    fitting = [size_bytes for size_bytes in sizes if size_bytes >= end]
    return replace(header, size_bytes=min(fitting, key=lambda size_bytes: (size_bytes != whole, size_bytes)))


async def _beginning(
    rpc: Rpc, members: list[Member], file: str, index: int, hashes: dict[str, str], tell: Tell
) -> bytes:
    name = BEGINNING.format(index)
    for member in members:
        size_bytes = next((one.size_bytes for one in member.manifest.tensors if one.name == name), 0)
        if name not in hashes or name not in member.tensors or not 0 < size_bytes <= MAX_BEGINNING_BYTES:
            continue
        try:
            data = bytearray()
            while len(data) < size_bytes:
                num_bytes = min(MAX_PIECE_BYTES, size_bytes - len(data))
                wanted = GetWeights(member.manifest.weights_hash, name, len(data), num_bytes)
                data += await get(rpc, member.peer, wanted)
            if hashlib.sha256(data).hexdigest() != hashes[name]:
                raise PeerMisbehaved(f"gave wrong bytes of {name}")
        except DsdError as error:
            tell(f"{PEER}{member.name} is left: {error}")
            continue
        return bytes(data)
    raise ModelRefused(f"no member gives the beginning of {file}")
