"""`python -m tests.cli.fake_chat chat ...`: with a swarm that echoes, babbles until it is stopped, or says a lot.

A pipe whose number is in FAKE_PULSE is told of every piece, and all the time that the event loop is not held.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from dsdnode.cli.main import main
from dsdnode.client import client
from dsdnode.client.client import Finished, GenerateRequest, Piece
from dsdnode.swarm.info import ModelInfo, PeerInfo
from tests.cli.known import MODELS, STATS

PULSE_S = 0.01


def numbers(num_pieces: int, width: int) -> Iterator[str]:
    """What is said to "say NUM WIDTH"."""
    return (str(i).rjust(width) for i in range(num_pieces))


class EchoClient:
    def __init__(self) -> None:
        self.num_said = 0
        self.pulse = asyncio.create_task(self.beat())

    async def beat(self) -> None:
        while True:
            self.tell()
            await asyncio.sleep(PULSE_S)

    def tell(self) -> None:
        with contextlib.suppress(OSError):  # nobody wants to know
            os.write(int(os.environ.get("FAKE_PULSE", "-1")), f"{self.num_said}\n".encode())

    @classmethod
    async def connect(
        cls,
        joins: Sequence[str],
        swarm_keys: tuple[str, ...] = (),
        patience_s: float = 60,
        told: Callable[[str], None] | None = None,
        identity: Any = None,
    ) -> EchoClient:
        return cls()

    async def generate(self, request: GenerateRequest, told: Callable[[str], None]) -> AsyncIterator[Piece | Finished]:
        asked = request.messages[-1]["content"]
        if asked.startswith("say "):
            for text in numbers(*map(int, asked.split()[1:])):
                yield Piece((1,), text, 1)
                self.num_said += 1
                await asyncio.sleep(0)
            self.tell()
            yield Finished("stop", STATS)
            return
        yield Piece((1,), f"You said {asked}", 1)
        yield Piece((2,), "!", 0)
        if asked == "babble":
            await asyncio.Event().wait()
        yield Finished("stop", STATS)

    async def models(self) -> list[ModelInfo]:
        return MODELS

    async def peers(self) -> list[PeerInfo]:
        print("looking for them", flush=True)
        await asyncio.Event().wait()
        return []

    def restrict(self, choice: Any) -> None:
        pass

    async def close(self) -> None:
        self.pulse.cancel()


if __name__ == "__main__":
    client.Client = EchoClient  # type: ignore[misc, assignment]
    main()
