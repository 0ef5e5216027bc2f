"""`python -m tests.engine.captive FD`: a worker that is lost. Whatever text it is asked to tokenize, it runs as Python.

Its link, its cage, its model and its threads are the real ones. An act that is refused is told as ValueError.
"""

from __future__ import annotations

from typing import Any

from dsdnode.engine import text_worker, worker
from dsdnode.engine.ipc import Buffer, Done, Packet, Request, Tokenize

_ANSWERS: dict[type, Any] = {kind: kind.answer for kind in (worker._Worker, text_worker.TextWorker)}


def answer(self: Any, request: Request, body: Buffer) -> tuple[Packet, list[Buffer]]:
    if not isinstance(request, Tokenize):
        told: tuple[Packet, list[Buffer]] = _ANSWERS[type(self)](self, request, body)
        return told
    try:
        exec(request.text, {})
    except Exception as error:
        raise ValueError(repr(error)) from None
    return Done(), []


if __name__ == "__main__":
    for kind in _ANSWERS:
        kind.answer = answer  # type: ignore[attr-defined]
    worker.main()
