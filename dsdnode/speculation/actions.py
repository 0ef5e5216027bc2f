"""What the two machines of a reply ask their drivers to do: the only way in which they reach the world."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dsdnode.speculation.shaper import Past
from dsdnode.wire.guesses import Guesses
from dsdnode.wire.logprobs import TokenLogprobs
from dsdnode.wire.masks import LackMasks
from dsdnode.wire.messages import Block, Closed, Nack, SessionLost, Verdict

MAX_BRANCHES = 4
"""Epochs of a reply that live at once: the main line and its hedges; a sequence of the draft engine each."""
Tokens: TypeAlias = tuple[int, ...]
States: TypeAlias = NDArray[np.float32]

# --- of the owner's machine (session.py) --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NeedRoute:
    """Choose a pipeline, send Open with this `route` number and `digests` (its buffer 1) to all, then call `on_route`.

    `reason`: "start"; "session_lost": a stage's cache is gone, the peer lives and may serve again; "peer_lost": avoid
    the suspects; "nack": a stage refuses again and again; "timeout": ping all, avoid who does not answer. `suspects`
    are indices into the route that is left. If opening fails half-way choose another pipeline and open that, under
    the same number. (No pipeline at all: `cancel`.)
    """

    route: int
    reason: str
    suspects: tuple[int, ...]
    digests: bytes


@dataclass(frozen=True, slots=True)
class SendBlock:
    """Send to the first stage: `digests` is buffer 0, `tokens` (given, then draft) buffer 1."""

    block: Block
    digests: bytes
    tokens: Tokens
    num_guesses: int = 0
    """That the judge is asked for behind its verdict."""


@dataclass(frozen=True, slots=True)
class DraftToken:
    """A draft token with the draft model's confidence in it, and what it would have said instead."""

    token: int
    probability: float = 1.0
    second: int = -1
    """-1: not told."""
    second_probability: float = 0.0
    copied: bool = False
    """Not the draft model's: copied from where the tokens before it stood before (owner/ngrams.py), or as `guessed`."""
    guessed: bool = False
    """By the target's own block for that, beside the judge (engine/mtp.py)."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Own draft engine: draw `count` tokens after `tokens`; answer `on_draft` with as many Draft tokens.

    In sequence `sequence` (0 to MAX_BRANCHES - 1) of this reply: with a `source`, first make it anew as a copy of the
    first `position` tokens of that one; then forget positions >= `position` and feed `tokens` there (perhaps a whole
    prompt: split it as the engine needs). The token drawn last is not fed, the ones before are (Chunk.extend = count -
    1). One at a time is outstanding. `past`: of the first draw, where the reply's shaping has one.
    """

    sequence: int
    source: int | None
    position: int
    tokens: Tokens
    count: int
    past: Past | None = None
    before: bytes = field(default=b"", compare=False)
    """The digest of what is before `position`, which says the same as that and `tokens`."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Committed for good: `tokens` go to the client; `num_accepted` of them, the first ones, were drafted. `logprobs`:
    of each of them, where they are asked for."""

    tokens: Tokens
    num_accepted: int
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The reply is over; send Close to every stage. `reason`: "stop" (end token), "length", "context", or cancel's."""

    reason: str


SessionAction: TypeAlias = NeedRoute | SendBlock | Draft | Emit | Finish

# --- of a stage's machine (stage/machine.py) ----------------------------------------------------------------------
# Engine actions must be carried out one after another in the order given (one queue and one task a session). A RunChunk
# is answered by exactly one of on_output, on_run_failed, on_engine_lost; until then the machine asks for no other
# engine action.


@dataclass(frozen=True, slots=True)
class CopySequence:
    """Make `target` (empty) share positions [0, position) of `source`."""

    source: int
    target: int
    position: int


@dataclass(frozen=True, slots=True)
class TruncateSequence:
    sequence: int
    position: int


@dataclass(frozen=True, slots=True)
class ReleaseSequence:
    sequence: int


@dataclass(frozen=True, slots=True)
class RunChunk:
    """Decode n positions from `position`: `tokens` at the first stage, `states` [n, width] at the others (else None).

    At the last stage a token is drawn after each of the last `num_draws` positions; `num_top`, `past` as in Chunk.
    """

    sequence: int
    position: int
    tokens: Tokens | None
    states: States | None
    num_draws: int
    num_top: int = 0
    past: Past | None = None
    masks: tuple[bytes, ...] = ()
    """Of each draw, where they are drawn under masks."""
    line: NDArray[np.int32] | None = None
    """Its own tokens, in a session that asks for guesses; `num_guesses`: behind this one's verdict."""
    num_guesses: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """What comes with a block for the judge alone: passed on as it came. The others: of JudgeNote, read at the
    judge."""

    data: bytes
    given: Tokens = ()
    num_guesses: int = 0


@dataclass(frozen=True, slots=True)
class ForwardBlock:
    """Send to stage index + 1: `digests` buffer 0, `tokens` (draft alone) buffer 1, `states` [n, width] buffer 2, and
    the judge's `note`, if there is one."""

    block: Block
    digests: bytes
    tokens: Tokens
    states: States
    note: Note | None = None


@dataclass(frozen=True, slots=True)
class Guessed:
    """What may stand from `position` on."""

    position: int
    guesses: Guesses


@dataclass(frozen=True, slots=True)
class SendToOwner:
    """`logprobs`, of a Verdict: of the last positions up to the one that it decides; its buffer 0. `guesses`: behind
    that; its buffer 1."""

    message: Verdict | Nack | SessionLost | LackMasks
    logprobs: tuple[TokenLogprobs, ...] = ()
    guesses: Guesses | None = None


@dataclass(frozen=True, slots=True)
class BroadcastClosed:
    """Seal it (seal.py) and send it to every other stage of the route; `digest`: of what stands of its epoch."""

    message: Closed
    digest: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    """The session is over here: forget the machine; after the engine actions before this one its sequences are free."""


StageAction: TypeAlias = (
    CopySequence | TruncateSequence | ReleaseSequence | RunChunk | ForwardBlock | SendToOwner | BroadcastClosed | Gone
)
