"""`dsdnode.connect` as a program without asyncio has it, before a swarm that says nothing for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import dsdnode
from dsdnode.client import face
from dsdnode.client.client import GenerateRequest, Piece


class MuteClient:
    """A piece, and then nothing."""

    began = threading.Event()
    left = threading.Event()
    closed = threading.Event()

    @classmethod
    async def connect(cls, *joins: Any) -> MuteClient:
        for event in (cls.began, cls.left, cls.closed):
            event.clear()
        return cls()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        try:
            yield Piece((1,), "Hel", 0)
            self.began.set()
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def close(self) -> None:
        self.closed.set()


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> type[MuteClient]:
    monkeypatch.setattr(face, "Client", MuteClient)
    return MuteClient


def test_who_is_interrupted_does_not_wait_for_the_next_piece(mute: type[MuteClient]) -> None:
    """As by Ctrl-C: the call that waits for a piece is ended where it runs, in the thread of the sockets."""
    with ThreadPoolExecutor(1) as reader, pytest.raises(KeyboardInterrupt), dsdnode.connect("dsd://...") as swarm:
        reply = swarm.complete("Hello")
        assert next(reply).text == "Hel"
        reader.submit(next, reply)
        assert mute.began.wait(10)
        raise KeyboardInterrupt
    assert mute.left.wait(10) and mute.closed.is_set()


def test_who_has_read_enough_leaves(mute: type[MuteClient]) -> None:
    with dsdnode.connect("dsd://...") as swarm:
        for piece in swarm.complete("Hello"):
            assert piece.text == "Hel"
            break
    assert mute.closed.is_set()
