"""What is being fetched: files as large as they will be, and a journal of the blocks that are in them.

Whoever goes on with it after a kill believes the journal of no block that he has not hashed: the disk may have kept the
one and lost the other.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from dsdnode.engine.gguf_header import Tensor
from dsdnode.errors import DsdError
from dsdnode.weights.plan import Block, Copy, Plan
from dsdnode.weights.store import JOURNAL

DIGEST_BYTES = 16
READ_BYTES = 1 << 20
_DROPPED = b"0" * 2 * DIGEST_BYTES


class DiskTrouble(DsdError):
    """The disk is full, or fails."""


class Target:
    """In a folder of its own, by who holds it (store.py)."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        """Raises DiskTrouble: it cannot be written."""
        self._plan = plan
        self._folder = folder
        self.suppliers: dict[int, str] = {}
        """By the index of each block that is there: who has given it."""
        self._digests: dict[int, bytes] = {}
        self._journal: BinaryIO | None = None
        with ExitStack() as opened, _told(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._journal = opened.enter_context((folder / JOURNAL).open("a+b", buffering=0))
            self._files = [opened.enter_context(_opened(folder / output.name)) for output in plan.outputs]
            self._lay_out()
            self._close = opened.pop_all()

    def close(self) -> None:
        self._close.close()

    def _lay_out(self) -> None:
        for file, output in zip(self._files, self._plan.outputs, strict=True):
            if os.fstat(file.fileno()).st_size != output.size_bytes:
                os.ftruncate(file.fileno(), output.size_bytes)
            for offset, data in ((0, output.head), *output.literals):
                _write(file, offset, data)

    async def recall(self) -> None:
        """What was there when it was left, hashed anew; what is not as the journal says is missing. Takes a second a
        gigabyte, or so."""
        for index, (digest, supplier) in _said(self._folder, self._plan).items():
            await asyncio.sleep(0)
            if self._digest(self._plan.blocks[index]).hex().encode() == digest:
                self._digests[index], self.suppliers[index] = bytes.fromhex(digest.decode()), supplier

    def write(self, index: int, data: bytes, supplier: str) -> None:
        """A whole block. Raises DiskTrouble: what is there stays."""
        assert self._journal is not None
        block = self._plan.blocks[index]
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        with _told(self._folder):
            for copy in self._plan.within(block.start, block.end):
                part = data[copy.start - block.start : copy.end - block.start]
                _write(self._files[copy.output], copy.offset, part)
                digest.update(part)
            self._journal.write(f"\n{index} {digest.hexdigest()} {supplier}".encode())
        self._digests[index], self.suppliers[index] = digest.digest(), supplier

    def drop(self, index: int) -> None:
        """It was not right."""
        assert self._journal is not None
        self.suppliers.pop(index, None)
        with _told(self._folder):
            self._journal.write(b"\n%d %s " % (index, _DROPPED))

    def digest_of(self, index: int) -> bytes | None:
        """Of what was there last, dropped or not."""
        return self._digests.get(index)

    async def sha256_of(self, tensor: Tensor) -> str:
        """In hex, as it is on the disk."""
        digest = hashlib.sha256()
        end = tensor.offset + tensor.size_bytes
        copies = {copy.start: copy for copy in self._plan.within(tensor.offset, end)}  # of two alike one will do
        for copy in copies.values():
            for part in self._read(copy):
                digest.update(part)
                await asyncio.sleep(0)
        return digest.hexdigest()

    def holds(self, start: int, data: bytes) -> bool:
        """Is on the disk what these bytes of the source are, from `start` on?"""
        return all(
            b"".join(self._read(copy)) == data[copy.start - start : copy.end - start]
            for copy in self._plan.within(start, start + len(data))
        )

    async def sha256_of_file(self, output: int) -> str:
        digest = hashlib.sha256()
        for part in self._read(Copy(0, self._plan.outputs[output].size_bytes, output, 0)):
            digest.update(part)
            await asyncio.sleep(0)
        return digest.hexdigest()

    def beginning(self, output: int, num_bytes: int) -> bytes:
        return b"".join(self._read(Copy(0, num_bytes, output, 0)))

    def sync(self) -> None:
        with _told(self._folder):
            for file in self._files:
                os.fsync(file.fileno())

    def _digest(self, block: Block) -> bytes:
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for copy in self._plan.within(block.start, block.end):
            for part in self._read(copy):
                digest.update(part)
        return digest.digest()

    def _read(self, copy: Copy) -> Iterator[bytes]:
        file, size_bytes = self._files[copy.output].fileno(), copy.end - copy.start
        for at in range(0, size_bytes, READ_BYTES):
            with _told(self._folder, "read"):
                part = os.pread(file, min(READ_BYTES, size_bytes - at), copy.offset + at)
            yield part


def kept_bytes(folder: Path, plan: Plan) -> int:
    """How much of it was fetched before, if the journal is right."""
    return sum(plan.blocks[index].size_bytes for index in _said(folder, plan))


def _said(folder: Path, plan: Plan) -> dict[int, tuple[bytes, str]]:
    """Blocks by their index: digest in hex, and who gave it. The last word on each counts."""
    said: dict[int, tuple[bytes, str]] = {}
    try:
        lines = (folder / JOURNAL).read_bytes().splitlines()
    except OSError:
        return {}
    for line in lines:
        index, _, rest = line.partition(b" ")
        digest, _, supplier = rest.partition(b" ")
        if index.isdigit() and len(index) < 10 and int(index) < len(plan.blocks) and len(digest) == 2 * DIGEST_BYTES:
            said[int(index)] = digest, supplier.decode("utf-8", "replace")
    return {index: one for index, one in said.items() if one[0] != _DROPPED}


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b", buffering=0)


def _write(file: BinaryIO, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file.fileno(), view, offset)
        view, offset = view[done:], offset + done


@contextmanager
def _told(folder: Path, done: str = "written") -> Iterator[None]:
    """What the disk says is the user's."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskTrouble(
                f"the disk is full ({folder.parent}): make room, then the same command goes on; nothing is lost"
            ) from None
        raise DiskTrouble(f"{folder} cannot be {done}: {error.strerror or error}") from None
