"""`python -m tests.engine.captive FD`: a worker that is lost. Whatever text it is asked to tokenize, it runs as Python.

Its link, its cage, its model and its threads are the real ones. An act that is refused is told as ValueError.
"""

from __future__ import annotations

from dsdnode.engine import worker
from dsdnode.engine.ipc import Buffer, Done, Packet, Request, Tokenize

_answer = worker._Worker.answer


def answer(self: worker._Worker, request: Request, body: Buffer) -> tuple[Packet, list[Buffer]]:
    if not isinstance(request, Tokenize):
        return _answer(self, request, body)
    try:
        exec(request.text, {})
    except Exception as error:
        raise ValueError(repr(error)) from None
    return Done(), []


if __name__ == "__main__":
    worker._Worker.answer = answer  # type: ignore[method-assign]
    worker.main()
