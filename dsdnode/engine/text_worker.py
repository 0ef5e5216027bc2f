"""What the processes do that know a model file's tokenizer and chat template, and none of its layers.

A template is a stranger's program, so is a grammar, and a text anything at all: whatever they do to this process, the
engine is another. Grammars have one of their own: masks are waited for in mid-reply, and a long text takes a second.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.cage import Cage
from dsdnode.engine.gguf_parts import parts_of
from dsdnode.engine.ipc import (
    GRAMMAR_CPU_S,
    TEXT_CPU_S,
    Buffer,
    Calls,
    Done,
    FindMasks,
    Ids,
    MasksFound,
    OpenGrammar,
    Packet,
    ReadCalls,
    Render,
    Request,
    Tokenize,
    Vocabulary,
)
from dsdnode.errors import BadInput

if TYPE_CHECKING:
    from dsdnode.engine.llama_vocab import LlamaVocab

MEMORY_BYTES = 768 << 20
"""Beside an empty process. 262,144 tokens took 106 MB, the longest conversation of all, tokenized, 120 MB."""


class TextWorker:
    """Answers Tokenize and Render, each within TEXT_CPU_S, or the process ends by SIGPROF."""

    def __init__(self, path: Path) -> None:
        """Raises ModelRefused (no tokenizer)."""
        time.localtime()  # templates may ask for it, and the zone is in a file
        cage = Cage()
        cage.shut_files(parts_of(path), _memory_bytes())
        from dsdnode.engine.llama_vocab import load_vocab

        cage.shut_calls()
        self._vocab: LlamaVocab = load_vocab(path)

    def describe(self) -> tuple[Packet, list[Buffer]]:
        vocab = self._vocab
        vocab.prepare()
        pieces = vocab.pieces()
        lengths = np.array([len(piece) for piece in pieces], "<u4")
        names = {vocab.name(token): token for token, piece in enumerate(pieces) if not piece}
        header = Vocabulary(vocab.size, vocab.end_tokens(), vocab.has_template, names)
        return header, [lengths.tobytes(), b"".join(pieces)]

    def answer(self, request: Request, body: Buffer) -> tuple[Packet, list[Buffer]]:
        """Raises DsdError or ValueError; anything else is a bug and ends the process."""
        signal.setitimer(signal.ITIMER_PROF, TEXT_CPU_S)
        try:
            match request:
                case Tokenize():
                    return _ids(self._vocab.tokenize(request.text, request.parse_special))
                case Render():
                    return _ids(self._vocab.render(request.messages, request.tools))
                case ReadCalls():
                    return Calls(self._vocab.calls()), []
            raise ValueError("there are no layers here")
        except MemoryError:
            raise BadInput("the text takes too much memory") from None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


class GrammarWorker:
    """Answers OpenGrammar and FindMasks, each within GRAMMAR_CPU_S, or the process ends by SIGPROF."""

    def __init__(self, path: Path) -> None:
        """Raises ModelRefused (no tokenizer), BadInput (no end token)."""
        cage, most_bytes = Cage(), _memory_bytes()
        cage.shut_files(parts_of(path), most_bytes)
        from dsdnode.engine.grammars import Grammars
        from dsdnode.engine.llama_vocab import load_vocab

        cage.shut_calls()
        vocab = load_vocab(path)
        names = [vocab.name(token).encode() for token in range(vocab.size)]
        self._grammars = Grammars(
            vocab.pieces(),
            names,
            vocab.end_tokens(),
            lambda text: vocab.tokenize_bytes(text).tolist(),
            lambda: 0 < half_bytes < _data_bytes(),
        )
        half_bytes = (_data_bytes() + most_bytes) // 2

    def answer(self, request: Request, body: Buffer) -> tuple[Packet, list[Buffer]]:
        """Raises DsdError or ValueError; anything else is a bug and ends the process."""
        signal.setitimer(signal.ITIMER_PROF, GRAMMAR_CPU_S)
        try:
            match request:
                case OpenGrammar():
                    self._grammars.open(request.key, request.constraint, request.vocab_size)
                    return Done(), []
                case FindMasks():
                    tokens = np.frombuffer(body, "<i4").tolist()
                    names, fresh = self._grammars.masks(request.key, tokens, request.first, request.again)
                    return MasksFound(names, [name for name, _ in fresh]), [mask for _, mask in fresh]
            raise ValueError("there are only grammars here")
        except MemoryError:
            raise BadInput("the grammar takes too much memory") from None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


def _ids(tokens: NDArray[np.int32]) -> tuple[Packet, list[Buffer]]:
    return Ids(), [tokens.astype("<i4").tobytes()]


def _memory_bytes() -> int:
    """0: no limit, on systems that have none."""
    return _data_bytes() + MEMORY_BYTES if sys.platform == "linux" else 0


def _data_bytes() -> int:
    """That this process has; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
