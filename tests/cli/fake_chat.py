"""`python -m tests.cli.fake_chat chat ...`: the chat with a swarm that echoes, or babbles until it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from dsdnode.cli.main import main
from dsdnode.client import client
from dsdnode.client.client import Finished, GenerateRequest, Piece
from dsdnode.swarm.info import ModelInfo
from tests.cli.conftest import MODELS, STATS


class EchoClient:
    @classmethod
    async def connect(
        cls, joins: Sequence[str], swarm_keys: tuple[str, ...] = (), patience_s: float = 60
    ) -> EchoClient:
        return cls()

    async def generate(self, request: GenerateRequest, told: Callable[[str], None]) -> AsyncIterator[Piece | Finished]:
        asked = request.messages[-1]["content"]
        yield Piece((1,), f"You said {asked}", 1)
        yield Piece((2,), "!", 0)
        if asked == "babble":
            await asyncio.Event().wait()
        yield Finished("stop", STATS)

    async def models(self) -> list[ModelInfo]:
        return MODELS

    async def close(self) -> None:
        pass


if __name__ == "__main__":
    client.Client = EchoClient  # type: ignore[misc, assignment]
    main()
