"""What the gateway needs of a swarm: a client (client/client.py) has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from dsdnode.client.client import Finished, GenerateRequest, Piece, TextRead
from dsdnode.swarm.info import ModelInfo, PeerInfo


class Swarm(Protocol):
    def generate(
        self, request: GenerateRequest, told: Callable[[str], None] | None = None
    ) -> AsyncGenerator[Piece | Finished, None]:
        """Raises DsdError."""

    async def read_text(self, request: GenerateRequest) -> TextRead:
        """Raises DsdError."""

    async def models(self) -> list[ModelInfo]: ...

    async def peers(self) -> list[PeerInfo]: ...
