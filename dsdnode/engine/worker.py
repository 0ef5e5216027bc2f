"""The process that an engine lives in: `python -m dsdnode.engine.worker FD`. A blocking loop over one socket.

When llama.cpp aborts, this process ends and the daemon reads the end of the stream; when the daemon ends, so does this.
Before it opens its model it gives up whatever else it could do (cage.py).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from dsdnode.engine.arrays import pack_outputs, unpack_chunks
from dsdnode.engine.cage import Cage
from dsdnode.engine.gguf_parts import parts_of
from dsdnode.engine.ipc import (
    PREFIX,
    SOCKET_BUFFER_BYTES,
    Buffer,
    Copy,
    Done,
    Failed,
    Forward,
    Load,
    Loaded,
    LoadText,
    Packet,
    Release,
    Request,
    Truncate,
    pack,
    read_request,
    sizes,
)
from dsdnode.engine.port import Broken, CacheSpoiled
from dsdnode.engine.text_worker import GrammarWorker, TextWorker
from dsdnode.errors import DsdError, WorkFailed

OUT_OF_MEMORY_SCORE = 500
"""If the machine runs out of memory, the kernel shall take the worker rather than the daemon."""
ALIKE = {"GGML_CPU_TILED_MM_FORCE": "1"}
"""Read by llama.cpp when it is loaded: one kernel for blocks of all sizes. It takes another one from 8 rows on for some
types of numbers (Q2_K to Q6_K, IQ), which rounds otherwise."""


class _Worker:
    def __init__(self, load: Load) -> None:
        readable = [*parts_of(load.path), *([] if load.cache_folder is None else [load.cache_folder])]
        options = load.options
        cage = Cage(gpu=options.gpu_layers > 0)
        cage.shut_files(readable, options.max_memory_bytes)
        os.environ |= ALIKE if options.alike else {}
        from dsdnode.engine.hybrid import open_engine

        cage.shut_calls()
        self._protection = cage.protection
        self._engine = open_engine(load.path, options, load.cache_folder)

    def loaded(self) -> Loaded:
        return Loaded(self._engine.shard, self._protection)

    def answer(self, request: Request, body: Buffer) -> tuple[Packet, list[Buffer]]:
        """Raises DsdError or ValueError: of a request that cannot be done; Broken: the process must end."""
        try:
            return self._answer(request, body)
        except (DsdError, ValueError, Broken):
            raise
        except Exception as bug:  # of this request's numbers or text: the others must not end with it
            raise WorkFailed(f"{type(bug).__name__}: {bug}") from bug

    def _answer(self, request: Request, body: Buffer) -> tuple[Packet, list[Buffer]]:
        engine = self._engine
        match request:
            case Forward():
                return pack_outputs(engine.forward(unpack_chunks(request, body, engine.shard.width)))
            case Copy():
                engine.copy(request.source, request.target, request.position)
            case Truncate():
                engine.truncate(request.sequence, request.position)
            case Release():
                engine.release(request.sequence)
            case _:
                raise ValueError("a worker loads one model in its life, and no text")
        return Done(), []


def serve(connection: socket.socket) -> None:
    """Answer requests until the stream ends. Raises whatever is a bug, and ConnectionError."""
    worker: _Worker | TextWorker | GrammarWorker | None = None
    while (received := _receive(connection)) is not None:
        request_id, request, body = received
        try:
            reply: Packet
            bodies: list[Buffer] = []
            if worker is not None:
                reply, bodies = worker.answer(request, body)
            elif isinstance(request, Load):
                worker = _Worker(request)
                reply = worker.loaded()
            elif isinstance(request, LoadText) and request.grammars:
                worker, reply = GrammarWorker(request.path), Done()
            elif isinstance(request, LoadText):
                worker = TextWorker(request.path)
                reply, bodies = worker.describe()
            else:
                raise ValueError("no model is loaded yet")
            buffers = pack(request_id, reply, *bodies)
        except (DsdError, ValueError) as error:
            reason = str(error).encode("utf-8", "backslashreplace").decode()  # (names of files need not be UTF-8)
            spoiled = error.sequences if isinstance(error, CacheSpoiled) else ()
            buffers = pack(request_id, Failed(type(error).__name__, reason[:4096], spoiled))
        _send(connection, buffers)


def _receive(connection: socket.socket) -> tuple[int, Request, Buffer] | None:
    prefix = _read(connection, PREFIX.size)
    if prefix is None:
        return None
    request_id, header_bytes, body_bytes = sizes(prefix)
    header, body = _read(connection, header_bytes), _read(connection, body_bytes)
    if header is None or body is None:
        return None
    return request_id, read_request(header), body


def _send(connection: socket.socket, buffers: list[Buffer]) -> None:
    """In one piece, unless that would be a large one: the daemon is woken by each."""
    if sum(map(len, buffers)) <= SOCKET_BUFFER_BYTES:
        buffers = [b"".join(buffers)]
    for buffer in buffers:
        connection.sendall(buffer)


def _read(connection: socket.socket, count: int) -> bytearray | None:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        received = connection.recv_into(view)
        if received == 0:
            return None
        view = view[received:]
    return data


def _settle_in() -> None:
    """Signals are the daemon's business, which drains first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    if sys.platform == "linux":
        try:
            Path("/proc/self/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORE))
        except OSError as error:
            logging.info("no oom score: %s", error)


def main() -> None:
    _settle_in()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        try:
            serve(connection)
        except (BrokenPipeError, ConnectionResetError):
            return  # the daemon is gone
        except msgspec.DecodeError as error:
            raise SystemExit(f"the daemon speaks another protocol: {error}") from None


if __name__ == "__main__":
    main()
