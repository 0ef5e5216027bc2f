"""Why a drafter is not the one that ends a reply: another one may do better."""

from __future__ import annotations

from dsdnode.errors import (
    BadInput,
    DsdError,
    ModelRefused,
    NoPipeline,
    Overloaded,
    PeerMisbehaved,
    PeerUnavailable,
    WorkerDied,
    WorkFailed,
)
from dsdnode.wire import replies
from dsdnode.wire.codec import printable

_KINDS: tuple[type[DsdError], ...] = (
    *(BadInput, ModelRefused, NoPipeline, Overloaded, PeerUnavailable),
    *(WorkerDied, WorkFailed),
)
LOSSES = (Overloaded, PeerUnavailable, PeerMisbehaved, WorkerDied, WorkFailed)
"""Another drafter may do better."""
Died = WorkerDied | WorkFailed
ERRORS = {kind.__name__: kind for kind in _KINDS} | {"EngineLost": PeerUnavailable}


class Left(PeerUnavailable):
    """A drafter gives a reply too little, or nothing: others may be better."""


class Denied(PeerUnavailable):
    """A drafter says that what is asked for cannot be done. `error`: what to raise when no other one does it."""

    def __init__(self, error: DsdError) -> None:
        super().__init__(str(error))
        self.error = error


class Contradiction(PeerMisbehaved):
    """Of two drafters of a reply one lies, and nobody here can say which."""


class OtherPrompt(Contradiction):
    """A drafter takes what was asked for another prompt than the one that began the reply, and one of them lies, or
    their chat templates differ. It is asked in another way."""


def said(notice: replies.Finished) -> DsdError:
    """A drafter's word for why it ends a reply."""
    error = ERRORS.get(notice.error, DsdError)(printable(notice.message))
    return error if isinstance(error, LOSSES) else Denied(error)
