"""A model file's tokenizer and chat template in a process of their own (text_worker.py), seen from the daemon.

One request at a time, so that it is known whose text the process died of: that request fails in words, and nothing
else does. If anybody else may have ended or stopped the process, the request is tried once more. A template that also
dies of the plainest conversation is not run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog

from dsdnode.engine.gguf_parts import read_model
from dsdnode.engine.gguf_text import text_file
from dsdnode.engine.grammar import GrammarProcess, ProcessGrammar
from dsdnode.engine.ipc import (
    TEXT_CPU_S,
    Calls,
    Failed,
    Ids,
    LoadText,
    Packet,
    ReadCalls,
    Render,
    Response,
    Tokenize,
    Vocabulary,
)
from dsdnode.engine.link import SILENT, WorkerLink
from dsdnode.engine.port import Message
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput, DsdError, EngineLost, ModelRefused
from dsdnode.files import shown
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.replies import Constraint

log = structlog.get_logger(__name__)

T = TypeVar("T")

TIMEOUT_S = 5.0
"""By the clock, on a busy machine. A client waits 10 s for an answer, which two such requests may be before."""
SPENT = f"it took more than {TEXT_CPU_S:g} s of a processor"
PLAINEST = Render([("user", "Hello", "")])
_ERRORS: dict[str, type[DsdError]] = {error.__name__: error for error in (BadInput, ModelRefused)}


class TextProcess:
    """Started when it is first asked, and again after it died."""

    def __init__(self, path: Path, load_timeout_s: float) -> None:
        self._path = path
        self._load_timeout_s = load_timeout_s
        self._link: WorkerLink | None = None
        self._newest: WorkerLink | None = None
        """It may still be loading."""
        self._vocab: Vocab | None = None
        self._one_by_one = asyncio.Lock()
        self._closed = False
        self._grammars = GrammarProcess(path, load_timeout_s)
        self._no_template = ""
        """Why the template is not run (any more)."""
        self._calls: CallFormat | None = None
        self._suspected = ""
        """How the process died of it, if since then it was not run again."""

    async def vocabulary(self) -> Vocab:
        """Everything that turns ids into text. Raises ModelRefused (no tokenizer), EngineLost."""
        async with self._one_by_one:
            if self._vocab is None:
                await self._start()
            assert self._vocab is not None
            return self._vocab

    async def text_file(self) -> bytes:
        """Of the model file, whatever it is. Raises ModelRefused."""
        return await asyncio.to_thread(lambda: text_file(read_model(self._path)))

    async def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Raises BadInput (too long, or the process died of it), ModelRefused (no tokenizer), EngineLost."""
        async with self._one_by_one:
            try:
                return await self._asked(Tokenize(_encodable(text), parse_special), self._read_ids)
            except _Died as death:
                raise BadInput(f"the text cannot be tokenized: {death}") from None

    async def render(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        """Raises BadInput (the template does not take it, or died of it), ModelRefused (no template, or none that
        works), EngineLost.
        """
        encodable = [(one[0], _encodable(one[1]), _encodable("".join(one[2:]))) for one in messages]
        return await self._templated(Render(encodable, _encodable(tools)), self._read_ids)

    async def calls(self) -> CallFormat:
        """How the model writes that it calls a tool. Raises as `render`."""
        if self._calls is None:
            self._calls = await self._templated(ReadCalls(), _calls_of)
        return self._calls

    async def _templated(self, packet: Packet, read: Callable[[Response, bytes], T]) -> T:
        async with self._one_by_one:
            if self._suspected:
                await self._try_template()
            if self._no_template:
                raise ModelRefused(self._no_template)
            try:
                return await self._asked(packet, read)
            except ModelRefused as error:
                self._no_template = str(error)
                raise
            except _Died as death:
                self._suspected = str(death)
                raise BadInput(f"the model's chat template failed at this conversation: {death}") from None

    async def constrain(self, constraint: Constraint, vocab_size: int) -> ProcessGrammar:
        """As `Text.constrain`; raises also ModelRefused, EngineLost."""
        return await self._grammars.open(constraint, vocab_size)

    @property
    def _vocab_size(self) -> int:
        return len(self._vocab.pieces) if self._vocab is not None else 0

    async def close(self) -> None:
        self._closed = True
        await self._grammars.close()
        self._link = None
        if self._newest is not None:
            await self._newest.close()

    async def _try_template(self) -> None:
        """Was it the conversation, or is it the template?"""
        why, self._suspected = self._suspected, ""
        try:
            await self._asked(PLAINEST, self._read_ids)
        except _Died:
            self._no_template = f"the model's chat template does not work, and is not run any more: {why}"
            log.warning("chat template refused", path=shown(self._path), reason=why)
        except DsdError:  # it lives, and wants another conversation
            return

    def _read_ids(self, reply: Response, body: bytes) -> list[int]:
        return _ids_of(reply, body, self._vocab_size)

    async def _asked(self, packet: Packet, read: Callable[[Response, bytes], T]) -> T:
        """Where it may be anybody's doing that the process died or stood still, a fresh one shows whose."""
        try:
            return await self._try(packet, read)
        except _Died as death:
            if death.is_spent:
                raise
        try:
            return await self._try(packet, read)
        except _Died as death:
            if death.is_silent:  # what takes long takes the processor, and is ended for that
                raise EngineLost("the process that reads texts does not answer: this machine is too busy") from None
            raise

    async def _try(self, packet: Packet, read: Callable[[Response, bytes], T]) -> T:
        link = self._link or await self._start()
        try:
            reply, body = await link.request(packet, timeout_s=TIMEOUT_S)
            found = None if isinstance(reply, Failed) else read(reply, body)
        except BaseException as error:  # also if nobody waits any more: the next one shall not wait behind this
            self._link = None
            link.kill()
            await link.close()
            if isinstance(error, EngineLost):
                log.warning("text process lost", path=shown(self._path), reason=str(error))
                raise _Died(_words(error)) from None
            raise
        _checked(reply)
        assert found is not None
        return found

    async def _start(self) -> WorkerLink:
        link = self._newest = await WorkerLink.spawn(self._lost)
        try:
            if self._closed:
                raise EngineLost("the engine is closed")
            reply, body = await link.request(LoadText.of(self._path), timeout_s=self._load_timeout_s)
            vocab = _vocab(_checked(reply), body)
        except BaseException:
            await link.close()
            raise
        if self._vocab is not None and (vocab.pieces, vocab.names) != (self._vocab.pieces, self._vocab.names):
            await link.close()
            raise ModelRefused(f"{shown(self._path)}: has another tokenizer than it had")
        self._link, self._vocab = link, vocab
        return link

    def _lost(self, *_: object) -> None:
        """It died, perhaps of nothing that it was asked: the next request gets another."""
        self._link = None


class TextFace:
    """What an engine that has a text process says of texts. Errors as that one's."""

    def _tokenizer(self) -> TextProcess:
        raise NotImplementedError

    async def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        return await self._tokenizer().tokenize(text, parse_special)

    async def render(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        return await self._tokenizer().render(messages, tools)

    async def calls(self) -> CallFormat:
        return await self._tokenizer().calls()

    async def vocabulary(self) -> Vocab:
        return await self._tokenizer().vocabulary()

    async def constrain(self, constraint: Constraint, vocab_size: int) -> ProcessGrammar:
        return await self._tokenizer().constrain(constraint, vocab_size)


class _Died(Exception):
    """The process did, of this request or meanwhile; says how."""

    @property
    def is_spent(self) -> bool:
        return str(self) == SPENT

    @property
    def is_silent(self) -> bool:
        return SILENT in str(self)


def _checked(reply: Response) -> Response:
    if isinstance(reply, Failed):
        raise _ERRORS.get(reply.kind, BadInput)(reply.reason)
    return reply


def _words(error: EngineLost) -> str:
    return SPENT if "SIGPROF" in str(error) else str(error)


def _vocab(header: Response, body: bytes) -> Vocab:
    """Raises EngineLost for what no such process says: a model file, or a template, may have taken it over."""
    if not isinstance(header, Vocabulary) or len(body) < 4 * header.vocab_size:
        raise EngineLost("the process with the tokenizer did not say what its vocabulary is")
    lengths = np.frombuffer(body, "<u4", header.vocab_size)
    ends = (4 * header.vocab_size + np.cumsum(lengths, dtype=np.int64)).tolist()
    starts = [4 * header.vocab_size, *ends]
    named = (*header.end_tokens, *header.names.values())
    if starts[-1] != len(body) or not all(0 <= token < header.vocab_size for token in named):
        raise EngineLost("the vocabulary that the process with the tokenizer tells of does not fit together")
    pieces = [body[start:end] for start, end in zip(starts, ends, strict=False)]
    return Vocab(pieces, frozenset(header.end_tokens), header.has_template, header.names)


def _ids_of(reply: Response, body: bytes, vocab_size: int) -> list[int]:
    """Raises EngineLost, as `_vocab` does."""
    if not isinstance(reply, Ids) or len(body) % 4:
        raise EngineLost("the process with the tokenizer did not say which ids a text has")
    ids = np.frombuffer(body, "<i4")
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise EngineLost("the process with the tokenizer says ids that it has no tokens for")
    found: list[int] = ids.tolist()
    return found


def _calls_of(reply: Response, body: bytes) -> CallFormat:
    """Raises EngineLost, as `_vocab` does."""
    if not isinstance(reply, Calls):
        raise EngineLost("the process with the chat template did not say how calls are written")
    return reply.calls


def _encodable(text: str) -> str:
    """Lone surrogates, which JSON may bring, cannot travel."""
    return text.encode("utf-8", "replace").decode()
