"""dsdnode from a program: ask a swarm for text.

    client = await dsdnode.Client.connect(["dsd://HOST:PORT/KEY"])
    async for event in client.generate(dsdnode.GenerateRequest(prompt="Once upon a time")):
        ...  # Piece after Piece, then one Finished; or an error of those below
    await client.close()

`dsdnode start --json` prints the join string. What is not named here may change without notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsdnode.errors import (
    BadInput,
    DsdError,
    EngineLost,
    ModelRefused,
    NoPipeline,
    NotRunning,
    Overloaded,
    PeerMisbehaved,
    PeerUnavailable,
    WorkerDied,
    WorkFailed,
)

if TYPE_CHECKING:
    from dsdnode.client.client import Client, Finished, GenerateRequest, Piece, ReplyStats

__all__ = [
    "BadInput",
    "Client",
    "DsdError",
    "EngineLost",
    "Finished",
    "GenerateRequest",
    "ModelRefused",
    "NoPipeline",
    "NotRunning",
    "Overloaded",
    "PeerMisbehaved",
    "PeerUnavailable",
    "Piece",
    "ReplyStats",
    "WorkFailed",
    "WorkerDied",
]


def __getattr__(name: str) -> Any:
    """The client and its nouns, imported when first asked for: they bring ZeroMQ and numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dsdnode.client import client

    return getattr(client, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
