"""dsdnode from a program: ask a swarm for text.

    with dsdnode.connect("dsd://HOST:PORT/KEY") as swarm:  # or: async with
        asked = "Ben has 34 stickers. Mia gives Ben 25 more. How many now?"
        for piece in swarm.chat([{"role": "user", "content": asked}]):  # or: async for
            print(piece.text, end="")  # Piece after Piece; or an error of those below

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
    from dsdnode.client.face import BlockingReply, BlockingSwarm, Reply, Swarm, connect

__all__ = [
    "BadInput",
    "BlockingReply",
    "BlockingSwarm",
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
    "Reply",
    "ReplyStats",
    "Swarm",
    "WorkFailed",
    "WorkerDied",
    "connect",
]


def __getattr__(name: str) -> Any:
    """The client and its nouns, imported when first asked for: they bring ZeroMQ and numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dsdnode.client import client, face

    _log_as_libraries_do()
    return getattr(face, name, None) or getattr(client, name)


def _log_as_libraries_do() -> None:
    """By Python's own logging, which shows warnings alone unless the program says otherwise."""
    import structlog

    if structlog.is_configured():
        return
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
