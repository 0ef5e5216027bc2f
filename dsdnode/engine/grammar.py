"""Grammars of replies in a process of their own (text_worker.py), seen from the daemon.

One request at a time, so that it is known whose the process died of: he is told, the second time, as a stranger's
schema ends his own reply; of what took too long at once. That it is silent is nobody's fault: what takes long takes the
processor, and is ended for that. The process remembers nothing that is not told again: where it died, a fresh one reads
the grammars and takes the tokens so far.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog

from dsdnode.engine.ipc import (
    GRAMMAR_CPU_S,
    Done,
    Failed,
    FindMasks,
    LoadText,
    MasksFound,
    OpenGrammar,
    Response,
    UnknownGrammar,
)
from dsdnode.engine.link import SILENT, WorkerLink
from dsdnode.engine.permits import FoundMasks
from dsdnode.errors import BadInput, DsdError, EngineLost, ModelRefused, Overloaded, WorkerDied
from dsdnode.files import shown
from dsdnode.speculation.masks import HASH_BYTES, num_bytes_of
from dsdnode.wire.replies import Constraint

log = structlog.get_logger(__name__)

ANSWER_S = 5.0
"""By the clock, on a busy machine, perhaps behind one that nobody waits for any more."""
READY_S = 6.0
"""A client waits 10 s for an answer: before that it is told to ask again. 262,144 tokens are read in 4 s."""
MAX_DEATHS = 2
"""Of one request, where each may be another one's fault."""
MAX_SILENCES = 2
"""Of one request; then others may have a machine that is less busy."""
MAX_TRIES = 4
SPENT = "SIGPROF"
"""By which it ends when it took too long (text_worker.py)."""
T = TypeVar("T")
_ERRORS: dict[str, type[DsdError]] = {error.__name__: error for error in (BadInput, ModelRefused)}


class GrammarProcess:
    """Started when it is first asked, and again after it died."""

    def __init__(self, path: Path, load_timeout_s: float) -> None:
        self._path = path
        self._load_timeout_s = load_timeout_s
        self._link: WorkerLink | None = None
        self._starting: asyncio.Task[WorkerLink] | None = None
        self._closed = False
        self._refused: DsdError | None = None
        """Why there are no grammars in this file's tokens: it is not read for that again."""
        self.turn = asyncio.Lock()

    async def open(self, constraint: Constraint, vocab_size: int) -> ProcessGrammar:
        """Raises BadInput, ModelRefused, Overloaded, EngineLost."""
        try:
            async with asyncio.timeout(READY_S):
                await self.up()
        except TimeoutError:
            raise Overloaded("the model's tokens are being made ready for grammars; ask again") from None
        grammar = ProcessGrammar(self, constraint, vocab_size)
        await grammar.open()
        return grammar

    async def up(self) -> WorkerLink:
        """Raises BadInput (no token ends a reply), ModelRefused, EngineLost."""
        if self._refused is not None:
            raise self._refused.with_traceback(None)  # else each one that hears of it makes it longer
        link = self._link
        return link if link is not None else await asyncio.shield(self._start())

    async def close(self) -> None:
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _start(self) -> asyncio.Task[WorkerLink]:
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._started(), name="start grammars")
        return self._starting

    async def _started(self) -> WorkerLink:
        if self._closed:
            raise EngineLost("the engine is closed")
        link = await WorkerLink.spawn(self._lost)
        try:
            reply, _ = await link.request(LoadText.of(self._path, grammars=True), timeout_s=self._load_timeout_s)
            checked(reply, Done)
        except BaseException as error:
            if isinstance(error, BadInput | ModelRefused):
                self._refused = error
            await link.close()
            raise
        self._link = link
        return link

    def _lost(self, reason: str, *_: object) -> None:
        if self._link is not None:
            log.warning("grammar process lost", path=shown(self._path), reason=reason)
        self._link = None


class ProcessGrammar:
    """One reply's."""

    def __init__(self, process: GrammarProcess, constraint: Constraint, vocab_size: int) -> None:
        self._process = process
        self._open = OpenGrammar(secrets.token_bytes(16), constraint, vocab_size)
        self._opened: WorkerLink | None = None
        """The process that knows it."""

    async def open(self) -> None:
        """Raises BadInput, EngineLost."""
        await self._try(self._opened_on)

    async def masks(self, tokens: Sequence[int], first: int, again: bool = False) -> FoundMasks:
        """As Grammar.masks."""

        async def ask(link: WorkerLink) -> FoundMasks | None:
            await self._opened_on(link)
            question = FindMasks(self._open.key, first, again)
            ids = np.asarray(tokens, "<i4").tobytes()
            reply, body = await link.request(question, ids, timeout_s=ANSWER_S)
            if isinstance(reply, Failed) and reply.kind == UnknownGrammar.__name__:
                self._opened = None  # others were asked for since
                return None
            most, num_bytes = len(tokens) - first + 1, num_bytes_of(self._open.vocab_size)
            return _found(checked(reply, MasksFound), body, most, num_bytes)

        return await self._try(ask)

    async def _opened_on(self, link: WorkerLink) -> bool:
        if self._opened is not link:
            reply, _ = await link.request(self._open, timeout_s=ANSWER_S)
            checked(reply, Done)
            self._opened = link
        return True

    async def _try(self, ask: Callable[[WorkerLink], Awaitable[T | None]]) -> T:
        num_silences = num_deaths = 0
        for _ in range(MAX_TRIES):
            async with self._process.turn:
                link = await self._process.up()
                try:
                    found = await ask(link)
                except EngineLost as death:
                    found = None
                    num_silences += SILENT in str(death)
                    if isinstance(death, WorkerDied) and SILENT not in str(death):
                        num_deaths += 1
                        _check_blame(death, num_deaths)
            if found is not None:
                return found
            if num_silences >= MAX_SILENCES:
                break
        raise EngineLost("the process that reads grammars does not answer: this machine is too busy")


def _check_blame(death: WorkerDied, num_deaths: int) -> None:
    """Raises BadInput: the process died of it before, or took too long, which nothing but its work counts for."""
    if num_deaths >= MAX_DEATHS or SPENT in str(death):
        raise BadInput(f"the grammar cannot be used: {_words(death)}") from None


def checked(reply: Response, kind: type[Response]) -> Response:
    """Raises what the process says, or EngineLost: it says something else."""
    if isinstance(reply, Failed):
        raise _ERRORS.get(reply.kind, BadInput)(reply.reason)
    if not isinstance(reply, kind):
        raise EngineLost("the process that reads grammars answered what it was not asked")
    return reply


def _found(reply: Response, body: bytes, most: int, num_bytes: int) -> FoundMasks:
    assert isinstance(reply, MasksFound)
    names, fresh = reply.names, reply.fresh
    if len(names) > most or len(fresh) * num_bytes != len(body) or any(len(name) != HASH_BYTES for name in names):
        raise EngineLost("the process that reads grammars answered what it was not asked")
    return FoundMasks(names, [(name, body[i * num_bytes : (i + 1) * num_bytes]) for i, name in enumerate(fresh)])


def _words(death: WorkerDied) -> str:
    if SPENT in str(death):
        return f"it took more than {GRAMMAR_CPU_S:g} s of a processor"
    return f"the process that reads it died of it ({death})"
