"""Conversations of clients: names, secrets, caches at the stages and a slot in the draft engine, from turn to turn.

When a conversation may go on, it rests when its reply is finished: the stages and the draft engine have the line in
their caches, and the next prompt, which begins like it, costs only what is new. Resting conversations are in nobody's
way: they go when a reply needs their slot: the oldest of whoever has most of them. So a gateway keeps those of all its
users while there is room, and takes none of another client's.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from random import Random

import numpy as np

from dsdnode.accounts import Account, Shares
from dsdnode.engine.port import Chunk, Engine, Output
from dsdnode.errors import DsdError
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.drafter.options import ReplyOptions
from dsdnode.speculation import actions as do
from dsdnode.speculation.actions import MAX_BRANCHES
from dsdnode.speculation.owner.ngrams import LEAST_MATCH
from dsdnode.speculation.plan import Continuation, SessionConfig
from dsdnode.speculation.sampling import Sampling
from dsdnode.swarm.catalogue import Model
from dsdnode.wire.messages import session_of

PARKED_S = 300.0
"""So long a conversation rests; its stages are told."""
SESSION_RANDOM_BYTES = 8
MIN_SHARED_TOKENS = 16
"""A chat template's first words are the same in every conversation."""
MIN_LENT_TOKENS = 128
"""A line that parts from a resting one is perhaps another user's, with the same system prompt: while there are places
and room it gets its own conversation, whose stages copy what is alike (node/shard/sessions.py), and the other one can
go on."""


class DraftSequences:
    """A conversation's sequences in the draft engine, for one reply; None in their place: plain decoding."""

    def __init__(
        self,
        batcher: Batcher,
        sequences: Sequence[int],
        sampling: Sampling,
        session: bytes,
        account: Account,
        foreign: frozenset[int] = frozenset(),
    ) -> None:
        """`sequences`: MAX_BRANCHES empty ones; `session` of `account`: whose work it is, and is charged for it;
        `foreign`: ids of the target that are other tokens to the draft model."""
        self._batcher = batcher
        self._session, self._account = session, account
        self._sequences = tuple(sequences)
        self._sampling = sampling
        self._foreign = foreign
        self._lengths = [0] * len(self._sequences)

    def follow(self, sampling: Sampling) -> DraftSequences:
        """For the next reply of the same session, with what is cached."""
        next_ = DraftSequences(self._batcher, self._sequences, sampling, self._session, self._account, self._foreign)
        next_._lengths = self._lengths
        return next_

    @property
    def available(self) -> bool:
        """Is the draft engine there, and is it to do this work? Where it died of that twice nothing more is
        drafted, the reply goes on without."""
        now = asyncio.get_running_loop().time()
        return self._batcher.engine.available and not self._batcher.culprits.is_refused(self._session, now)

    @property
    def vocab_size(self) -> int:
        """The draft model's."""
        return self._batcher.engine.shard.vocab_size

    def draft(
        self, action: do.Draft, done: Callable[[Output | DsdError | None], None], masks: tuple[bytes, ...] = ()
    ) -> None:
        """A token of the target that the draft model lacks, or takes for something else, is the first one to it.
        `masks`: of the first draft tokens."""
        sequence = self._sequences[action.sequence]
        if action.source is not None:
            self._batcher.release(sequence)
            self._batcher.copy(self._sequences[action.source], sequence, action.position)
        elif action.position < self._lengths[action.sequence]:
            self._batcher.truncate(sequence, action.position)
        self._lengths[action.sequence] = action.position + len(action.tokens) + action.count - 1
        known = self.vocab_size
        seen = [token if token < known and token not in self._foreign else 0 for token in action.tokens]
        inputs = np.asarray(seen, np.int32)
        chunk = Chunk(
            sequence, action.position, inputs, 1, self._sampling,
            extend=action.count - 1, runners_up=True, past=action.past, masks=masks,
            owner=self._account.owner,
        )  # fmt: skip
        self._batcher.run(chunk, done, owner=self._session, account=self._account)

    def release(self) -> None:
        """Empty them, whatever they hold; of a sequence that died with its worker nothing is left."""
        for index, length in enumerate(self._lengths):
            if length:
                self._batcher.release(self._sequences[index])
        self._lengths = [0] * len(self._sequences)


@dataclass(slots=True, eq=False)
class Conversation:
    """`session` and `secret` name it to its stages; `num_positions`: that its line may grow to."""

    account: Account
    """The client's."""
    model_id: str
    session: bytes
    secret: bytes
    num_positions: int = 0
    tokens: tuple[int, ...] = ()
    """Prompt, and the reply so far where it is resumed; resting: prompt and reply."""
    sequences: DraftSequences | None = None
    carried: Continuation = field(default_factory=Continuation)
    """What the next reply begins with."""
    resting: bool = False
    slot: int | None = None
    """Of the draft engine; None: there was none free."""
    timer: asyncio.TimerHandle | None = None
    _holders: dict[bytes, None] = field(default_factory=dict)

    @property
    def client(self) -> bytes:
        return self.account.owner

    @property
    def holders(self) -> tuple[bytes, ...]:
        """Peers that may have it open, in the order in which they were asked: each is to be told its end."""
        return tuple(self._holders)

    def asked(self, peers: Iterable[bytes]) -> None:
        """They are being asked to open it."""
        self._holders.update(dict.fromkeys(peers))

    def left(self, peer: bytes) -> None:
        """It was told to forget it."""
        self._holders.pop(peer, None)

    def rest(self, carried: Continuation, tokens: tuple[int, ...]) -> None:
        """Its reply is over, and another may follow."""
        self.carried, self.tokens, self.resting = carried, tokens, True

    def forget_drafts(self) -> None:
        """Nothing of it is in the draft engine any more."""
        if self.sequences is not None:
            self.sequences.release()
            self.sequences = None
        self.carried = dataclasses.replace(self.carried, cached=())


class Conversations:
    """All of one drafter. `close` tells a conversation's stages its end."""

    def __init__(
        self,
        owner: bytes,
        engine: Engine,
        batcher: Batcher,
        close: Callable[[Conversation], None],
        max_sessions: int,
        rng: Random,
    ) -> None:
        """`owner`: the peer id of this drafter; `rng`: of secrets."""
        self._owner = owner
        self._engine = engine
        self._batcher = batcher
        self._close = close
        self._rng = rng
        self._secret = b""
        self._free = list(range(min(max_sessions, engine.shard.max_sequences // MAX_BRANCHES)))
        """Slots of the draft engine: MAX_BRANCHES sequences each."""
        self._max_resting = max_sessions
        self._talking: dict[bytes, Conversation] = {}
        self._resting: dict[bytes, Conversation] = {}
        """By session, the oldest first."""

    def take(self, account: Account, line: Sequence[int], num_positions: int, options: ReplyOptions) -> Conversation:
        """A conversation for a reply that follows `line`; perhaps the one of the turn before. `leave` it at the end."""
        model_id = options.model.model_id
        taken = self._fitting(account.owner, line, num_positions, options.model) if options.keep else None
        if taken is None:
            session = session_of(self._owner, self._rng.randbytes(SESSION_RANDOM_BYTES))
            taken = Conversation(account, model_id, session, self._secret_for(options))
        else:
            self._wake(taken)
        taken.tokens, taken.num_positions, taken.resting = tuple(line), num_positions, False
        while self._resting and self._is_full(taken):
            self._end(self._next_to_go())
        if taken.slot is None and self._free:
            taken.slot = self._free.pop()
        self._talking[taken.session] = taken
        self._prepare_drafts(taken, options)
        return taken

    def _secret_for(self, options: ReplyOptions) -> bytes:
        """One for all, so that a stage sees that two lines begin alike, and computes that once. Of a strict reply its
        own: there rounding may not depend on what others asked."""
        fresh = self._rng.randbytes(32)
        self._secret = self._secret or fresh
        return fresh if options.fixed_chunks else self._secret

    def leave(self, conversation: Conversation, *, keep: bool) -> None:
        """Its reply is over; not `keep`: it must not rest, though there were more to come."""
        del self._talking[conversation.session]
        if not conversation.resting or not keep:
            return self._free_it(conversation)
        self._resting[conversation.session] = conversation
        conversation.timer = asyncio.get_running_loop().call_later(PARKED_S, self._end, conversation)
        if len(self._resting) > self._max_resting:
            self._end(self._next_to_go())

    def forget(self, client: bytes | None = None) -> None:
        """End what rests for this client, or (None) for everybody."""
        for conversation in [one for one in self._resting.values() if client in (None, one.client)]:
            self._end(conversation)

    def draft_lost(self) -> None:
        """The draft engine died: what it had cached of resting lines is gone."""
        for conversation in self._resting.values():
            conversation.forget_drafts()

    def _prepare_drafts(self, conversation: Conversation, options: ReplyOptions) -> None:
        """Its sequences, for a reply that draws like this."""
        slot = conversation.slot
        if slot is None or not options.drafted:
            conversation.forget_drafts()
        elif conversation.sequences is None:
            sequences = range(slot * MAX_BRANCHES, (slot + 1) * MAX_BRANCHES)
            conversation.sequences = DraftSequences(
                self._batcher, sequences, options.sampling, conversation.session, conversation.account, options.foreign
            )
        else:
            conversation.sequences = conversation.sequences.follow(options.sampling)

    def _fitting(self, client: bytes, line: Sequence[int], num_positions: int, model: Model) -> Conversation | None:
        """The resting one whose line the new one follows for the longest way."""
        mine = [one for one in self._resting.values() if (one.client, one.model_id) == (client, model.model_id)]
        best = max(mine, key=lambda one: _num_shared(one.tokens, line), default=None)
        if best is None or (shared := _num_shared(best.tokens, line)) < MIN_SHARED_TOKENS:
            return None
        parts = shared < len(line) and shared < len(best.tokens) - MIN_SHARED_TOKENS
        places = len(self._resting) < self._max_resting and bool(self._free)
        most = min(model.context_tokens, self._engine.shard.context_tokens)
        is_room = self._num_held() + num_positions <= most  # else the lender would have to go before it has lent
        return None if parts and shared >= MIN_LENT_TOKENS and places and is_room else best

    def _is_full(self, conversation: Conversation) -> bool:
        """Is there no slot for one more, or no room in the draft engine's cache?"""
        num_positions = self._num_held() + conversation.num_positions
        lacks_slot = conversation.slot is None and not self._free
        return lacks_slot or num_positions > self._engine.shard.context_tokens

    def _num_held(self) -> int:
        """Positions of all that talk, or rest."""
        talking = sum(one.num_positions for one in self._talking.values())
        return talking + sum(len(one.tokens) for one in self._resting.values())

    def _next_to_go(self) -> Conversation:
        """The oldest that rests of whoever has most of them."""
        resting = list(self._resting.values())
        heaviest = Shares(self._max_resting, ((one.account, 1) for one in resting)).heaviest()[0]
        return next(one for one in resting if one.account == heaviest)

    def _end(self, conversation: Conversation) -> None:
        self._wake(conversation)
        self._free_it(conversation)

    def _wake(self, conversation: Conversation) -> None:
        del self._resting[conversation.session]
        if conversation.timer is not None:
            conversation.timer.cancel()

    def _free_it(self, conversation: Conversation) -> None:
        self._close(conversation)
        conversation.forget_drafts()
        if conversation.slot is not None:
            self._free.append(conversation.slot)


def _num_shared(mine: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    pairs = zip(mine, other, strict=False)
    return next((index for index, (one, two) in enumerate(pairs) if one != two), min(len(mine), len(other)))


def draft_tokens_of(
    output: Output, vocab_size: int, foreign: frozenset[int] = frozenset()
) -> tuple[do.DraftToken, ...]:
    """Up to the first id that the target lacks (its own rows, a draft model may have padded further) or that says
    something else there."""

    def usable(token: int) -> bool:
        return token < vocab_size and token not in foreign

    assert output.tokens is not None and output.probabilities is not None
    assert output.runners_up is not None and output.runner_up_probabilities is not None
    columns = (output.tokens, output.probabilities, output.runners_up, output.runner_up_probabilities)
    drawn = [do.DraftToken(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    known = takewhile(lambda one: usable(one.token), drawn)
    return tuple(one if usable(one.second) else do.DraftToken(one.token, one.probability) for one in known)


def session_config(conversation: Conversation, options: ReplyOptions) -> SessionConfig:
    return SessionConfig(
        session=conversation.session,
        secret=conversation.secret,
        max_tokens=options.max_tokens,
        max_positions=options.model.context_tokens,
        vocab_size=options.model.vocab_size,
        end_tokens=options.end_tokens,
        relaxed=options.acceptance.threshold > 0,
        num_resumed=options.num_resumed,
        chunk_positions=options.chunk_positions,
        fixed_chunks=options.fixed_chunks,
        carried=conversation.carried,
        shaping=options.sampling.shaping,
        logprobs=options.num_logprobs >= 0,
        least_match=LEAST_MATCH if options.copies else 0,
        guesses=options.num_guesses > 0,
    )
