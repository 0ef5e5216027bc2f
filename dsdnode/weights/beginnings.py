"""What lies before the tensors of a model's files, from its source: what the model is, and where all of it lies."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dsdnode.engine.gguf import Manifest, manifest_of
from dsdnode.engine.gguf_header import Header, parse_header
from dsdnode.engine.gguf_parts import join_parts
from dsdnode.errors import ModelRefused
from dsdnode.weights.sources import Remote, RemoteFile
from dsdnode.weights.store import forget_headers, keep_headers, known_headers, size
from dsdnode.weights.web import Denied, SourceFailed, Web

FIRST_BYTES = 256 << 10
"""Of a header: all of it, where it has no tokenizer."""
FAST_BYTES = 4 << 20
"""Up to here twice as much is asked for each time, from here on a quarter more: what lies behind is tensors."""
MAX_BEGINNING_BYTES = 256 << 20
"""Of a file, in which its header must end."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of a model before it is fetched: the beginnings of its files are in hand."""

    remote: Remote
    header: Header
    beginnings: list[bytes]
    whole: Manifest


async def look(web: Web, remote: Remote, folder: Path, keep: bool, weights_hash: str) -> Looked:
    """What a pull before has left in `folder` is not fetched again, if it is of use: somebody else than the hub may
    have answered then, whose network wants a login first, say. Raises ModelRefused, SourceFailed, SourceChanged."""
    beginnings = known_headers(folder, len(remote.files), remote.given_by)
    while True:
        is_new = not any(beginnings)
        try:
            header = await _header(web, remote, folder, keep, beginnings)
            whole = manifest_of(header, weights_hash, Path(remote.files[0].name))
            return Looked(remote, header, list(map(bytes, beginnings)), whole)
        except ModelRefused:
            if keep:
                forget_headers(folder)
            if is_new:
                raise
        beginnings = [bytearray() for _ in remote.files]


async def _header(web: Web, remote: Remote, folder: Path, keep: bool, beginnings: list[bytearray]) -> Header:
    """Of all files as one; `beginnings`, of each, grow until it is in them."""
    headers = []
    for index, file in enumerate(remote.files):
        header = None
        while header is None:
            header = await _grown(web, file, beginnings[index])
            if keep:
                keep_headers(folder, beginnings, remote.given_by)
        headers.append(header)
    return join_parts(Path(remote.files[0].name), [Path(file.name) for file in remote.files], headers)


async def _grown(web: Web, file: RemoteFile, beginning: bytearray) -> Header | None:
    """Fetch more of the beginning of a file, if need be; its header, if that is all in it now."""
    if beginning:
        header = await asyncio.to_thread(parse_header, bytes(beginning), file.name, file.size_bytes)
        if header is not None:
            return header
    had = len(beginning)
    if had >= min(file.size_bytes, MAX_BEGINNING_BYTES):
        raise ModelRefused(f"{file.name}: its header does not end within {size(had)}")
    wanted = max(FIRST_BYTES, 2 * had if had < FAST_BYTES else had + had // 4)
    try:
        async with aclosing(web.read(file, had, min(wanted, file.size_bytes))) as chunks:
            async for chunk in chunks:
                beginning += chunk
    except Denied as denied:
        raise SourceFailed(f"{urlsplit(file.url).hostname} does not give {file.name}: it says {denied}") from None
    return None
