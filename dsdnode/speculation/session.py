"""The owner of a reply: numbers the epochs, streams blocks, commits what the judge decides. Speculation section 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsdnode.speculation.actions import SessionAction, Tokens
from dsdnode.speculation.events import EventLog
from dsdnode.speculation.window import WindowController
from dsdnode.wire.messages import Nack, Verdict


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """`secret` (16+ random bytes) keys the digests; `session` is the random id. `max_positions` caps prompt + reply."""

    session: bytes
    secret: bytes
    max_tokens: int
    max_positions: int
    vocab_size: int
    end_tokens: frozenset[int] = frozenset()
    chunk_positions: int = 256
    prefill_blocks: int = 4
    """Chunks of the prompt in flight at once: they need no verdict, so they may fill the pipeline."""
    pass_timeout_s: float = 4.0
    position_timeout_s: float = 0.05
    """A pass may take pass_timeout_s + position_timeout_s * positions in flight before it counts as lost."""


class SessionMachine:
    """One reply. Every event returns the actions to carry out, in order; after Finish every event returns []."""

    def __init__(self, config: SessionConfig, prompt: Tokens, window: WindowController, *, drafter: bool) -> None:
        """`prompt`: at least one token (for a resumed reply: with the tokens so far). `drafter`: a draft engine is there."""
        raise NotImplementedError

    log: EventLog
    """log.statistics() is what `run --json` shows."""
    route: int
    """Of the current route, or of the one asked for last."""

    # what the driver may read
    @property
    def tokens(self) -> Tokens:
        """Prompt and committed tokens."""
        raise NotImplementedError

    @property
    def finished(self) -> str | None:
        """Reason of Finish, once it was given."""
        raise NotImplementedError

    def next_wakeup(self) -> float | None:
        """When `tick` must be called at the latest; ask again after every event."""
        raise NotImplementedError

    # events
    def start(self, now: float) -> list[SessionAction]:
        """First event. Asks for route 0."""
        raise NotImplementedError

    def on_route(self, now: float, route: int, lengths: Sequence[int]) -> list[SessionAction]:
        """All stages of `route` answered Opened, with these lengths (of any route number but the one asked for last: ignored)."""
        raise NotImplementedError

    def on_route_failed(self, now: float, route: int, suspects: Sequence[int] = ()) -> list[SessionAction]:
        """Some stage did not open: asks for another route. (No pipeline at all: call `cancel`.)"""
        raise NotImplementedError

    def on_draft(self, now: float, tokens: Tokens) -> list[SessionAction]:
        """Answer to the outstanding Draft."""
        raise NotImplementedError

    def on_drafter_lost(self, now: float) -> list[SessionAction]:
        """The draft engine died, its cache with it; an outstanding Draft will not be answered. Window 0 from here."""
        raise NotImplementedError

    def on_drafter_back(self, now: float) -> list[SessionAction]:
        """The draft engine is there again, empty."""
        raise NotImplementedError

    def on_verdict(self, now: float, verdict: Verdict) -> list[SessionAction]:
        raise NotImplementedError

    def on_nack(self, now: float, nack: Nack) -> list[SessionAction]:
        raise NotImplementedError

    def on_session_lost(self, now: float, index: int) -> list[SessionAction]:
        """Stage `index` of the current route says that it does not know the session (the driver checks who says so)."""
        raise NotImplementedError

    def on_peer_lost(self, now: float, suspects: Sequence[int]) -> list[SessionAction]:
        """These stages of the current route do not answer pings, or cannot be reached."""
        raise NotImplementedError

    def tick(self, now: float) -> list[SessionAction]:
        """Timers: resend, then a new epoch, then another route."""
        raise NotImplementedError

    def cancel(self, now: float, reason: str) -> list[SessionAction]:
        """Client gone, stop string seen, no pipeline: Finish(reason)."""
        raise NotImplementedError
