"""What a target's texts are read with: its own tokenizer, chat template and ends, whatever model drafts.

The target's shards have them in a file (engine/gguf_text.py), which is got once, checked against the hash that the
model's id is made of, and kept. So nobody but who chose the model decides how its conversations are read.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from cachetools import LFUCache

from dsdnode.accounts import Account, in_turn
from dsdnode.dht.ids import ip_groups
from dsdnode.engine.pairs import Fit
from dsdnode.engine.port import Text
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput, DsdError, ModelRefused, Overloaded, PeerMisbehaved, PeerUnavailable
from dsdnode.files import replacing
from dsdnode.identity import peer_id, short_id
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.catalogue import Model
from dsdnode.wire.messages import TEXT_PIECE_BYTES, FindText, Refused, TextPiece

log = structlog.get_logger(__name__)

PIECE_TIMEOUT_S = 20.0
"""1 MiB at half a megabit a second."""
GIVEN_S = 120.0
"""So long one shard may take over all of a file: the largest known, of 16 MiB, packs to some 6 MB, 100 s at half a
megabit a second. Whoever gives each piece at the last moment would be waited for as many times longer as it likes."""
FILE_S = 2 * GIVEN_S
"""And so long all that are asked for it: a drafter's start waits for the files of several models, one by one."""
MAX_ASKED = 8
"""Shards, for one file."""
WAIT_S = 6.0
"""A client waits 10 s for an answer: before that it is told to ask again."""
FAILED_S = 10.0
"""So long a file that could not be had is not asked for again."""
MAX_OPEN = 4
"""Processes that read texts, of 100 MB each."""
LONGEST_BYTES = 256
"""Of a token of any vocabulary: runs of blanks are the longest."""
MAX_KEPT = 16
"""Files on the disk."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a target's texts are read. `foreign`: ids that say something else to the draft model."""

    text: Text
    vocabulary: Vocab
    foreign: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Draft:
    """What is known of the draft model's own tokenizer. `compare`: a text file with it: that one's tokenizer hash, and
    whether they fit; raises ModelRefused. `open`: a text file, to read with."""

    compare: Callable[[Path], Awaitable[tuple[str, Fit]]]
    open: Callable[[Path], Text]


class Texts:
    """Of all models that are drafted for: those of `tokenizer_hash`. `own`: the draft model's, if there is one, for
    those without a text file."""

    def __init__(
        self, rpc: Rpc, own: Reading | None, tokenizer_hash: str, draft: Draft | None = None, folder: Path | None = None
    ) -> None:
        self._rpc = rpc
        self.own = own
        self.tokenizer_hash = tokenizer_hash
        self._draft = draft
        self._folder = folder
        self._open: _Readings = _Readings(MAX_OPEN)
        """By text hash, as the files on the disk."""
        self._opening: dict[str, asyncio.Task[Reading]] = {}
        """By model id, as all that may fail: anybody can make up a model that is said to have another one's file, and
        shards that never give it."""
        self._failed: dict[str, tuple[float, DsdError]] = {}
        self._progress: dict[str, str] = {}
        self._closing: dict[asyncio.Task[None], None] = {}
        self._local: dict[str, Callable[[], Awaitable[bytes]]] = {}

    @property
    def longest_bytes(self) -> int:
        """Of a token, as far as is known before a target's text file was read."""
        return self.own.vocabulary.longest_bytes if self.own is not None else LONGEST_BYTES

    def know(self, text_hash: str, read: Callable[[], Awaitable[bytes]]) -> None:
        """This node has that file itself."""
        self._local[text_hash] = read

    async def of(self, model: Model) -> Reading:
        """Raises Overloaded (it is on its way), ModelRefused (they do not fit, or the file is not what the model's
        records say), PeerUnavailable (nobody gives it)."""
        if not model.text_hash or self._draft is None or self._folder is None:
            if self.own is None:
                raise ModelRefused(f"the shards of {model.name} have no tokenizer to give, and there is no draft model")
            return self.own
        known: Reading | None = self._open.get(model.text_hash)
        if known is not None:
            return known
        task = self._begin(model)
        try:
            async with asyncio.timeout(WAIT_S):
                return await asyncio.shield(task)
        except TimeoutError:
            how_far = self._progress.get(model.model_id, "it is being looked for")
            raise Overloaded(
                f"the tokenizer of {model.name} is being fetched from its shards ({how_far}); ask again"
            ) from None

    def begin(self, model: Model) -> None:
        """Have it ready when it is asked for."""
        if model.text_hash and self._draft is not None and self._folder is not None:
            self._begin(model).add_done_callback(lambda task: task.cancelled() or task.exception())

    async def fit(self, model: Model) -> Fit:
        """Does the draft model fit it? Raises as `of`."""
        assert self._draft is not None
        path = await self._file(model)
        return await self._compared(self._draft, model, path)

    async def close(self) -> None:
        tasks = [*self._opening.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._closing, return_exceptions=True)
        for reading in list(self._open.values()):
            await reading.text.close()

    # --- one file

    def _begin(self, model: Model) -> asyncio.Task[Reading]:
        task = self._opening.get(model.model_id)
        if task is None:
            failed_s, error = self._failed.get(model.model_id, (float("-inf"), None))
            if error is not None and _now() < failed_s + FAILED_S:
                raise error.with_traceback(None)  # else each one that hears of it makes it longer
            if len(self._opening) >= MAX_OPEN:
                raise Overloaded(f"the tokenizers of {MAX_OPEN} models are being fetched here already; ask again")
            task = asyncio.create_task(self._read(model), name="read texts of a model")
            self._opening[model.model_id] = task
            task.add_done_callback(lambda _: self._opening.pop(model.model_id, None))
        return task

    async def _read(self, model: Model) -> Reading:
        try:
            return await self._opened(model)
        except DsdError as error:
            while len(self._failed) >= MAX_KEPT:
                del self._failed[next(iter(self._failed))]
            self._failed[model.model_id] = _now(), error
            raise

    async def _opened(self, model: Model) -> Reading:
        assert self._draft is not None
        path = await self._file(model)
        fit = await self._compared(self._draft, model, path)
        if fit.reason:
            raise ModelRefused(f"the draft model here has another tokenizer than {model.name}: {fit.reason}")
        text = self._draft.open(path)
        try:
            vocabulary = await text.vocabulary()
        except BaseException:
            await text.close()
            raise
        known: Reading | None = self._open.get(model.text_hash)
        if known is not None:  # another model has the same file
            await text.close()
            return known
        if fit.foreign:
            log.info("ids that differ are not drafted", model=model.name, ids=len(fit.foreign), first=fit.told)
        reading = Reading(text, vocabulary, frozenset(fit.foreign))
        self._open[model.text_hash] = reading
        for gone in self._open.gone():
            closing = asyncio.create_task(gone.text.close(), name="close texts")
            self._closing[closing] = None
            closing.add_done_callback(self._closing.pop)
        return reading

    async def _compared(self, draft: Draft, model: Model, path: Path) -> Fit:
        tokenizer_hash, fit = await draft.compare(path)
        if tokenizer_hash != model.tokenizer_hash:
            raise ModelRefused(f"{model.name} is not what its shards say: its text file has another tokenizer")
        return fit

    async def _file(self, model: Model) -> Path:
        assert self._folder is not None
        path = self._folder / f"{model.text_hash}.gguf"
        if not await asyncio.to_thread(_is_whole, path, model.text_hash):
            data = await self._got(model)
            await asyncio.to_thread(_keep, path, data)
        return path

    async def _got(self, model: Model) -> bytes:
        if model.text_hash in self._local:
            return await self._local[model.text_hash]()
        try:
            async with asyncio.timeout(FILE_S):
                return await self._got_from_any(model)
        except TimeoutError:
            raise PeerUnavailable(f"the shards of {model.name} did not give its tokenizer in {FILE_S:.0f} s") from None
        finally:
            self._progress.pop(model.model_id, None)

    async def _got_from_any(self, model: Model) -> bytes:
        """Raises PeerUnavailable."""
        own, why = peer_id(self._rpc.transport.contact.public_key), "nobody hosts it"
        for peer in _in_turn(model, own)[:MAX_ASKED]:
            try:
                async with asyncio.timeout(GIVEN_S):
                    data = await self._got_from(peer, model)
            except TimeoutError:
                why = f"peer {short_id(peer)} did not give it in {GIVEN_S:.0f} s"
                continue
            except DsdError as error:
                if isinstance(error, PeerMisbehaved):
                    self._rpc.misbehaved(peer, error)
                why = str(error)
                continue
            if hashlib.sha256(data).hexdigest() == model.text_hash:
                return data
            self._rpc.misbehaved(peer, "a text file that is another one")
            why = f"peer {short_id(peer)} gave another file"
        raise PeerUnavailable(f"none of its shards gives the tokenizer of {model.name} ({why})")

    async def _got_from(self, peer: bytes, model: Model) -> bytes:
        """Raises DsdError."""
        parts: list[bytes] = []
        num_bytes = 1
        while len(parts) * TEXT_PIECE_BYTES < num_bytes:
            question = FindText(model.text_hash, len(parts))
            answer, buffers = await self._rpc.ask(peer, question, timeout_s=PIECE_TIMEOUT_S)
            if isinstance(answer, Refused):
                raise PeerUnavailable(f"peer {short_id(peer)}: {answer.reason}")
            if not isinstance(answer, TextPiece) or len(buffers) != 1:
                raise PeerUnavailable(f"peer {short_id(peer)}: no answer to FindText")
            num_bytes = answer.num_bytes
            due = min(TEXT_PIECE_BYTES, num_bytes - len(parts) * TEXT_PIECE_BYTES)
            parts.append(_unpacked(buffers[0], due))
            self._progress[model.model_id] = f"{len(parts)} of {-(-num_bytes // TEXT_PIECE_BYTES)} MiB"
        return b"".join(parts)


class _Readings(LFUCache[str, Reading]):
    """Those used most stay: whoever invents models pushes out his own."""

    def __init__(self, num: int) -> None:
        super().__init__(num)
        self._gone: list[Reading] = []

    def popitem(self) -> tuple[str, Reading]:
        item: tuple[str, Reading] = super().popitem()
        self._gone.append(item[1])
        return item

    def gone(self) -> list[Reading]:
        gone, self._gone = self._gone, []
        return gone


def _in_turn(model: Model, own: bytes) -> list[bytes]:
    """Its shards, each asker in another order, networks taking turns."""
    order = sorted(model.shards, key=lambda one: hashlib.sha256(own + one.peer_id).digest())
    turns = in_turn(order, lambda one: Account(b"", min(ip_groups(one.addresses), default="")))
    return list(dict.fromkeys(one.peer_id for one in turns if one.peer_id != own))


def _unpacked(data: bytes, num_bytes: int) -> bytes:
    """Raises PeerMisbehaved for anything but exactly so many bytes, packed."""
    try:
        unpacker = zlib.decompressobj()
        piece = unpacker.decompress(data, num_bytes) if num_bytes > 0 else b""
    except zlib.error as error:
        raise PeerMisbehaved(f"a piece of a text file that is no zlib: {error}") from None
    if len(piece) != num_bytes or not (unpacker.eof or not unpacker.decompress(unpacker.unconsumed_tail, 1)):
        raise PeerMisbehaved("a piece of a text file of another length than it says")
    return piece


def _is_whole(path: Path, text_hash: str) -> bool:
    try:
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == text_hash
        path.touch()
    except OSError:
        return False
    return whole


def _keep(path: Path, data: bytes) -> None:
    """Those used last stay on the disk. Raises DsdError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(data)
        kept = sorted(path.parent.glob("*.gguf"), key=lambda one: one.stat().st_mtime)
        for old in kept[:-MAX_KEPT]:
            old.unlink(missing_ok=True)
    except (OSError, BadInput) as error:
        log.warning("a model's text file cannot be kept", path=str(path), reason=str(error))
        reason = getattr(error, "strerror", None) or "it cannot be written"
        raise DsdError(f"the drafter cannot keep the model's tokenizer on its disk: {reason}") from None


def _now() -> float:
    return asyncio.get_running_loop().time()
