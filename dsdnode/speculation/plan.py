"""What to draft next, and what the owner's machine of one reply is given to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dsdnode.speculation.shaping import PLAIN, Shaping

Mode = Literal["plain", "rounds", "stream", "hedged"]
MIN_CHANCE = 0.03
"""A draft token less likely to be needed is not worth anybody's energy."""
CALL_S = 0.006
"""A call of the draft engine lasts so long at most (or one token): a correction must not wait for it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next.

    plain    nothing is drafted (block 0, window 0)
    rounds   `block` = `window` tokens, then wait for the verdict
    stream   blocks of `block` tokens, drafted ahead, while at most `window` draft tokens are not yet judged
    hedged   the same, with up to `hedges` branches of second choices beside the main line
    """

    mode: Mode
    block: int
    window: int
    hedges: int = 0
    reason: str = ""
    """For people: why, when the mode has just been changed."""
    copied: bool = False
    """Of draft tokens that are there already: none is drafted meanwhile."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """Of the reply before, in the same session: numbers go on counting, caches go on serving.

    `route`: of the first route to ask for; `epoch`: the highest number in use; `cached`: by sequence of the draft
    engine, the digests after each token that it holds.
    """

    route: int = 0
    epoch: int = 0
    cached: tuple[tuple[bytes, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """`secret` (16+ random bytes) keys the digests, perhaps of many sessions; `session` is its id; `max_positions` caps
    prompt + reply."""

    session: bytes
    secret: bytes
    max_tokens: int
    max_positions: int
    vocab_size: int
    end_tokens: frozenset[int] = frozenset()
    relaxed: bool = False
    """The judge may accept what it did not draw: its own token waits while a draft token for its place is in flight."""
    num_resumed: int = 0
    """So many of the prompt's last tokens are the reply's own, of before."""
    chunk_positions: int = 256
    """Of the prompt in a block, at most."""
    fixed_chunks: bool = False
    """Cut the prompt into as large blocks as may be, whatever the pipeline: a strict engine's rounding shows them."""
    pass_timeout_s: float = 4.0
    position_timeout_s: float = 0.05
    """A pass may take pass_timeout_s + position_timeout_s * positions in flight before it counts as lost."""
    carried: Continuation = Continuation()
    shaping: Shaping = PLAIN
    """How its draws are shaped: what they look back at goes with each Draft."""
    logprobs: bool = False
    """A token is not committed without its log-probabilities."""
    least_match: int = 0
    """So many tokens have to agree for those that followed them to be proposed again (owner/ngrams.py); 0: none are."""
    guesses: bool = False
    """Draft tokens may come with verdicts, too."""
