"""One stage of a pipeline, for one session: what to do with each block that arrives. Speculation section 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsdnode.speculation.actions import StageAction, States, Tokens
from dsdnode.wire.messages import Block, Closed


@dataclass(frozen=True, slots=True)
class StageLimits:
    hop_timeout_s: float = 1.0
    """How long a block may wait for the one before it."""
    max_waiting_blocks: int = 16
    max_waiting_positions: int = 4096
    max_kept_blocks: int = 8
    max_kept_positions: int = 2048
    max_closings: int = 64


class StageMachine:
    """One session at one stage. Every event returns the actions to carry out, in order; after Gone every event returns [].

    While a RunChunk is unanswered any other event may arrive; none of them then gives an engine action.
    """

    def __init__(
        self, session: bytes, sequences: Sequence[int], *, max_positions: int, limits: StageLimits | None = None
    ) -> None:
        """`sequences`: ids of engine sequences, all empty, that are this session's until Gone (2 at least, 4 is good)."""
        raise NotImplementedError

    def next_wakeup(self) -> float | None:
        """When `tick` must be called at the latest; ask again after every event."""
        raise NotImplementedError

    def on_open(
        self, now: float, route: int, index: int, num_stages: int, lease_s: float, digests: bytes
    ) -> int | None:
        """Open, first or again. Returns `length` for Opened; None: an old route, answer Refused.

        Index 0 takes tokens, index num_stages - 1 judges. Forgets what belongs to lower routes, but not the cache.
        """
        raise NotImplementedError

    def on_block(
        self, now: float, block: Block, digests: bytes, tokens: Tokens, states: States | None
    ) -> list[StageAction]:
        """Buffers as in Block's docstring, decoded; `states` None at the first stage. Raises PeerMisbehaved when they do not fit."""
        raise NotImplementedError

    def on_output(self, now: float, states: States | None, draws: Tokens, compute_s: float) -> list[StageAction]:
        """The RunChunk is done: `states` [n, width] of it, or at the last stage its `draws` (num_draws tokens)."""
        raise NotImplementedError

    def on_run_failed(self, now: float) -> list[StageAction]:
        """The engine refused the RunChunk (Overloaded): nothing of it is in the cache."""
        raise NotImplementedError

    def on_engine_lost(self, now: float) -> list[StageAction]:
        """The worker died, running or not: all sequences are gone. SessionLost to the owner; the machine stays, empty, for a re-Open."""
        raise NotImplementedError

    def on_closed(self, now: float, closed: Closed) -> list[StageAction]:
        """The judge's Closed (the driver checks that the sender is the route's last stage)."""
        raise NotImplementedError

    def on_close(self, now: float) -> list[StageAction]:
        """The owner's Close: releases, Gone (after the run in flight, if any)."""
        raise NotImplementedError

    def tick(self, now: float) -> list[StageAction]:
        """Timers: hop deadlines (Nack), the lease (SessionLost, releases, Gone)."""
        raise NotImplementedError
