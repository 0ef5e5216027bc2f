"""The engine port on a worker process: load, requests, death, respawn with back-off, quarantine (deaths.py).

    loading -> ready                 the model decoded its first block
    loading -> refused               the file's fault, in words: `start` raises ModelRefused
    ready -> down                    the process died: every sequence is lost, callbacks told, pending requests fail
    ready -> ready                   the cache was spoiled, and cleared: every sequence is lost, so is told who waits
    down -> ready                    after a pause that grows with each recent death
    down -> quarantined              too many deaths that no single owner explains
    quarantined -> ready, or again   after a longer pause: another try
    any -> looking                   its model file was written to: nothing is computed of it
    looking -> ready                 nobody writes any more, and all in it is as it was
    any -> ended                     closed, or its model file is another now, or is refused

While it is down, requests for new sequences wait for it; those for lost sequences, and in quarantine all, raise
EngineLost at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from dsdnode.engine.arrays import outputs_of, pack_chunks
from dsdnode.engine.cage import Protection
from dsdnode.engine.deaths import Deaths, Rest
from dsdnode.engine.ipc import (
    Buffer,
    Copy,
    Done,
    EngineOptions,
    Failed,
    Load,
    Loaded,
    Packet,
    Release,
    Response,
    Truncate,
    error_of,
    sequences_of,
)
from dsdnode.engine.link import NoProcess, WorkerLink
from dsdnode.engine.mapped import MappedFile
from dsdnode.engine.port import CacheSpoiled, Chunk, Lost, Output, ShardInfo
from dsdnode.engine.text import TextFace, TextProcess
from dsdnode.errors import DsdError, EngineLost, ModelRefused, WorkerDied
from dsdnode.files import shown

log = structlog.get_logger(__name__)

LOAD_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 120.0
LOOK_S = 1.0
"""Between two looks at the model file of an engine that nobody asks for anything."""
NO_PROCESS_PAUSE_S = 1.0
"""What the system lacks may be there again at any time, and to ask costs next to nothing."""
WRITTEN = "the model file was written to while it was served"


class WorkerEngine(TextFace):
    """An `Engine` (port.py) in a process of its own."""

    def __init__(self, load: Load, load_timeout_s: float, request_timeout_s: float) -> None:
        """Use `start`. Raises ModelRefused."""
        self._load = load
        self._file = MappedFile(load.path)
        self._load_timeout_s = load_timeout_s
        self._request_timeout_s = request_timeout_s
        self._link: WorkerLink | None = None
        self._shard: ShardInfo | None = None
        self._settled = asyncio.Event()
        self._over = ""
        """Why there is no process, where one is not on its way."""
        self._looking = self._ended = False
        self._deaths = Deaths()
        self._on_lost: list[Lost] = []
        self._on_change: list[Callable[[], None]] = []
        self._owners: dict[int, bytes] = {}
        """Whose work was done last in each sequence."""
        self._live: set[int] = set()
        self._gone: set[int] = set()
        self._respawner: asyncio.Task[None] | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._text = TextProcess(load.path, load_timeout_s)
        self.num_deaths = 0
        self.protection = Protection(())
        """What holds the worker that was started last (cage.py)."""
        self.last_death = ""
        """In words for the user of this machine: they may name files."""

    @staticmethod
    async def start(
        path: Path,
        options: EngineOptions,
        *,
        cache_folder: Path | None = None,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> WorkerEngine:
        """Start a worker and load the whole model or shard at `path`; its hash is kept in `cache_folder`.

        Raises ModelRefused when the file is refused, or llama.cpp crashes on it.
        """
        load = Load.of(path, options, cache_folder)
        engine = WorkerEngine(load, load_timeout_s, request_timeout_s)
        try:
            await engine._spawn()
        except NoProcess as error:
            raise DsdError(str(error)) from None
        except EngineLost as error:
            raise ModelRefused(f"{path}: llama.cpp crashed while loading it ({error}; the log has its words)") from None
        finally:
            if engine._link is None:
                engine._file.close()
        engine._watch()
        return engine

    @property
    def shard(self) -> ShardInfo:
        assert self._shard is not None, "`start` returns loaded engines only"
        return self._shard

    @property
    def pid(self) -> int | None:
        """Of the worker process; None while it is down."""
        return self._link.pid if self._link is not None else None

    @property
    def available(self) -> bool:
        return self._link is not None

    @property
    def quarantined(self) -> str:
        """Why the engine will not come back soon, in words for strangers, too; empty while it works or restarts."""
        return self._over

    def on_lost(self, callback: Lost) -> None:
        self._on_lost.append(callback)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._on_change.append(callback)

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        """As `Engine.forward`. Raises also PeerMisbehaved (values), ValueError (our bug)."""
        for chunk in chunks:
            if chunk.position == 0:
                self._gone.discard(chunk.sequence)
            self._check_known(chunk.sequence)
        link = await self._up()
        self._live.update(chunk.sequence for chunk in chunks)
        self._owners.update((chunk.sequence, chunk.owner) for chunk in chunks)
        packet, bodies = pack_chunks(list(chunks))
        reply, body = await self._ask(link, packet, *bodies)
        if self._is_written():
            raise EngineLost(self._over)
        try:
            return outputs_of(reply, body, chunks, self.shard)
        except ValueError as error:
            raise await self._unfit(link, packet, error) from None

    async def copy(self, source: int, target: int, position: int) -> None:
        self._check_known(source)
        self._gone.discard(target)
        link = await self._up()
        self._live.add(target)
        self._owners[target] = self._owners.get(source, b"")
        await self._done(link, Copy(source, target, position))

    async def truncate(self, sequence: int, position: int) -> None:
        self._check_known(sequence)
        await self._done(await self._up(), Truncate(sequence, position))

    async def release(self, sequence: int) -> None:
        """Forget the whole sequence. What died with its process is forgotten already: never raises EngineLost."""
        self._live.discard(sequence)
        if sequence in self._gone or self._link is None:
            self._gone.discard(sequence)
            return
        try:
            await self._done(self._link, Release(sequence))
        except EngineLost:
            self._gone.discard(sequence)

    async def close(self) -> None:
        """End the processes, each within link.EXIT_S, whatever they are doing."""
        await self._text.close()
        self._end("the engine is closed", log.debug)
        if self._watcher is not None:
            self._watcher.cancel()
        if self._respawner is not None:
            self._respawner.cancel()
            await asyncio.gather(self._respawner, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        self._file.close()

    async def text_file(self) -> bytes:
        return await self._text.text_file()

    def _tokenizer(self) -> TextProcess:
        """It works while the engine restarts. Raises EngineLost: the file is not what it was."""
        if self._is_written():
            raise EngineLost(self._over)
        return self._text

    # --- requests -------------------------------------------------------------------------------------------------

    def _check_known(self, sequence: int) -> None:
        if sequence in self._gone:
            raise EngineLost("the sequence died with its process")

    async def _up(self) -> WorkerLink:
        """The link, once it is ready. Raises EngineLost when that will not be."""
        if self._link is None:
            try:
                async with asyncio.timeout(self._load_timeout_s):
                    await self._settled.wait()
            except TimeoutError:
                raise EngineLost("the engine is still restarting") from None
        if self._link is None:
            raise EngineLost(self._over or "the engine's process died again")
        return self._link

    async def _ask(
        self, link: WorkerLink, packet: Packet, *bodies: Buffer, timeout_s: float | None = None
    ) -> tuple[Response, bytes]:
        reply, body = await link.request(packet, *bodies, timeout_s=timeout_s or self._request_timeout_s)
        if isinstance(reply, Failed):
            if reply.kind == CacheSpoiled.__name__:
                raise self._spoiled(link, reply)
            raise error_of(reply)
        return reply, body

    async def _done(self, link: WorkerLink, packet: Packet) -> None:
        reply, _ = await self._ask(link, packet)
        if not isinstance(reply, Done):
            raise await self._unfit(link, packet, f"{type(reply).__name__} is no answer to {type(packet).__name__}")

    async def _unfit(self, link: WorkerLink, packet: Packet, why: object) -> WorkerDied:
        """The worker does not do what it is asked to: whatever it is now, it is ended, as if it had died of that."""
        log.error("an engine's process answers something else", path=shown(self._load.path), reason=str(why))
        link.kill()
        reason = "the engine's process answered what it was not asked"
        self._died(link, reason, packet)
        await link.close()
        return WorkerDied(reason)

    # --- life and death -------------------------------------------------------------------------------------------

    async def _spawn(self) -> None:
        """One try. Raises ModelRefused (the file's fault, said in words) or EngineLost (it died loading)."""
        link = await WorkerLink.spawn(lambda reason, what: self._died(link, reason, what))
        try:
            reply, _ = await self._ask(link, self._load, timeout_s=self._load_timeout_s)
            if not isinstance(reply, Loaded):
                raise EngineLost("the engine's process did not say what it loaded")
            await self._file.remember(self._load.cache_folder)
        except BaseException:
            await link.close()
            raise
        if self._shard is not None and reply.shard != self._shard:
            await link.close()
            raise ModelRefused(f"{self._load.path}: is another model than it was")
        if self._file.written() or self._file.replaced():
            await link.close()
            raise ModelRefused(f"{self._load.path}: was written to, or replaced, since the node looked at it first")
        self._shard, self._link, self.protection = reply.shard, link, reply.protection
        self._settled.set()

    def _died(self, link: WorkerLink, reason: str, what: Packet | None) -> None:
        if link is not self._link:  # while loading: `_spawn` tells
            return
        self._link = None
        self._lose(reason, sequences_of(what))

    def _spoiled(self, link: WorkerLink, reply: Failed) -> CacheSpoiled:
        """The worker lives on with an empty cache, unless that has come too often."""
        if link is self._link:
            self._lose(reply.reason, reply.sequences)
        return CacheSpoiled(reply.reason, reply.sequences)

    def _lose(self, reason: str, sequences: Sequence[int]) -> None:
        """All sequences are lost, of the work of these."""
        self._gone |= self._live
        self._live.clear()
        if not self._is_written():
            rest = self._count_death(reason, frozenset(filter(None, map(self._owners.get, sequences))))
            if self._link is not None and rest.quarantine:
                self._link.kill()
                self._link = None
            if self._link is None:
                self._settled.clear()
                self._respawner = asyncio.create_task(self._respawn(rest), name="engine respawner")
        for callback in self._on_lost:
            callback(frozenset(sequences))
        self._changed()

    async def _respawn(self, rest: Rest) -> None:
        """Try until it is back, or its model is refused: whatever else fails is a death, never the end of trying."""
        while not self._ended:
            if rest.quarantine:
                self._stop(f"quarantined for {rest.pause_s:.0f} s: {rest.quarantine}")
            await asyncio.sleep(rest.pause_s)
            try:
                await self._try_again()
            except NoProcess as error:
                log.warning("engine not started", path=shown(self._load.path), reason=str(error))
                rest = Rest(NO_PROCESS_PAUSE_S)
            except ModelRefused as error:
                if self._is_written():
                    return
                log.error("the model is refused now", path=shown(self._load.path), reason=str(error))
                self._end("the engine did not come back: its model cannot be loaded any more")
            except Exception as error:
                if not isinstance(error, DsdError):
                    log.exception("bug in starting an engine")
                rest = self._count_death(str(error), frozenset())
            else:
                return self._changed()

    async def _try_again(self) -> None:
        """As `_spawn`; who asks for something waits for it."""
        if not self._ended:
            self._over = ""
            self._settled.clear()
            await self._spawn()

    def _count_death(self, reason: str, owners: frozenset[bytes]) -> Rest:
        self.num_deaths += 1
        self.last_death = reason
        log.warning("engine lost", path=shown(self._load.path), reason=reason, num_deaths=self.num_deaths)
        return self._deaths.add(asyncio.get_running_loop().time(), owners)

    def _watch(self) -> None:
        """Also when nobody asks for anything: what is offered must be there."""
        self._is_written()
        if not self._ended:
            self._watcher = asyncio.get_running_loop().call_later(LOOK_S, self._watch)

    def _is_written(self) -> bool:
        """Then nothing is computed of it, until it is seen that all in it is as it was."""
        if not self._file.written():
            return False
        if not (self._ended or self._looking):
            self._looking = True
            self._stop(f"{WRITTEN}; it is being looked at")
            if self._respawner is not None and self._respawner is not asyncio.current_task():
                self._respawner.cancel()
            self._respawner = asyncio.create_task(self._look_again(), name="engine respawner")
        if self._link is not None:
            self._link.kill()
        return True

    async def _look_again(self) -> None:
        """A touch is nothing. Whoever wrote something else knows what is to be hosted next, and restarts the node."""
        link = self._link
        if link is not None:
            await link.close()
            self._died(link, WRITTEN, None)
        same = await self._file.again()
        if same is None:
            return self._end(f"{WRITTEN}, and is another now: it is hosted no more until the node is restarted")
        self._file.close()
        self._file, self._looking = same, False
        log.info("the model file is as it was", path=shown(self._load.path))
        await self._respawn(Rest(0.0))

    def _end(self, reason: str, say: Callable[..., object] = log.warning) -> None:
        """Of it all: there is no next life."""
        if not self._ended:
            self._ended = True
            self._stop(reason, say)

    def _stop(self, reason: str, say: Callable[..., object] = log.warning) -> None:
        """Nobody waits for it now."""
        self._over = reason
        say("engine stopped", path=shown(self._load.path), reason=reason)
        self._settled.set()
        self._changed()

    def _changed(self) -> None:
        for callback in self._on_change:
            callback()
