"""A model that members have, and no source that is known: all of it comes from them.

The files' hashes in a manifest must be those that the model's id is made of, so a whole model that comes is right. Of
layers alone a manifest is all there is: whoever said that he hashed the whole file is believed.
"""

from __future__ import annotations

import asyncio
import hashlib
from math import inf
from pathlib import Path

from dsdnode.engine.gguf import manifest_of
from dsdnode.engine.gguf_header import Header, parse_header
from dsdnode.engine.gguf_parts import join_parts
from dsdnode.errors import DsdError, ModelRefused, PeerMisbehaved
from dsdnode.net.rpc import Rpc
from dsdnode.weights.fetch import PEER
from dsdnode.weights.holdings import BEGINNING
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
    files = tuple(RemoteFile(one.name, "", one.size_bytes, one.sha256.hex()) for one in said.files)
    source = f"{PEER.strip()}s"
    remote = Remote(Source(url=f"{source}:{weights_hash[:12]}"), files, said.licence)
    hashes, _ = agreed(members)
    beginnings, headers = [], []
    for index, file in enumerate(files):
        beginning, header = await _beginning(rpc, members, file, index, hashes, tell)
        beginnings.append(beginning)
        headers.append(header)
    path = Path(files[0].name)
    header = join_parts(path, [Path(file.name) for file in files], headers)
    whole = manifest_of(header, weights_hash, path)
    return Pull(store, Looked(remote, header, beginnings, whole), str(remote.source), layers, None, Pace(bytes_per_s))


async def _beginning(
    rpc: Rpc, members: list[Member], file: RemoteFile, index: int, hashes: dict[str, str], tell: Tell
) -> tuple[bytes, Header]:
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
        header = await asyncio.to_thread(parse_header, bytes(data), file.name, file.size_bytes)
        if header is not None:
            return bytes(data), header
    raise ModelRefused(f"no member gives the beginning of {file.name}")
