"""What a drafter makes of what a request asks for, or leaves to it: acceptance, wire type, window policy, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cachetools import LRUCache
from msgspec.structs import asdict

from dsdnode.config import NodeConfig
from dsdnode.engine.permits import Grammar
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput
from dsdnode.pacing.estimates import Experience
from dsdnode.pacing.policies import Terms, policy_of
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.speculation.controller import WindowController
from dsdnode.speculation.masks import MAX_VOCAB_SIZE
from dsdnode.speculation.owner.prefill import MAX_SINGLES_POSITIONS
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.shaping import Shaping
from dsdnode.swarm.catalogue import Model
from dsdnode.wire.codec import MAX_FRAME_BYTES
from dsdnode.wire.guesses import MAX_GUESSES, Guesses, unpack_guesses
from dsdnode.wire.logprobs import TokenLogprobs, unpack_logprobs
from dsdnode.wire.messages import MAX_BLOCK_POSITIONS, WireAcceptance, WireSampling
from dsdnode.wire.numbers import parse_wire
from dsdnode.wire.replies import GenerateBody
from dsdnode.wire.shaping import PLAIN, WireShaping

PREFILL_POSITIONS = 256
MAX_EXPERIENCES = 64
"""Models."""


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """How one reply is made. `num_resumed`: tokens of it that the client has already; `max_tokens`: more of them."""

    model: Model
    asked: WireSampling
    acceptance: WireAcceptance
    wire: str
    window: WindowController
    max_tokens: int
    end_tokens: frozenset[int]
    chunk_positions: int
    """Of given tokens in a block, at most."""
    fixed_chunks: bool = False
    drafted: bool = True
    """False: plain decoding."""
    key_tokens: bytes = b""
    """For the judge, where acceptance is relaxed (speculation/acceptance.py)."""
    num_resumed: int = 0
    keep: bool = False
    """Another reply of this conversation may follow."""
    lease_s: float = 60.0
    patience_s: float = 60.0
    """The reply ends when it has not gone forward for so long."""
    foreign: frozenset[int] = frozenset()
    """Ids that say something else to the draft model: it is not shown them, and they are not proposed."""
    shaping: WireShaping = PLAIN
    num_logprobs: int = -1
    model_drafts: bool = True
    """A draft model is there."""
    grammar: Grammar | None = None
    """What the reply may say, where that is constrained."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(**asdict(self.asked), shaping=Shaping(**asdict(self.shaping)))

    @property
    def copies(self) -> bool:
        """May draft tokens be copied? Where the judge may accept what it did not draw, that would draw a reply towards
        what was said before."""
        return self.drafted and self.acceptance.threshold == 0

    def logprobs_of(self, buffers: list[bytes]) -> tuple[TokenLogprobs, ...]:
        """Of a Verdict. Raises PeerMisbehaved."""
        if self.num_logprobs < 0 or not buffers:
            return ()
        return unpack_logprobs(buffers[0], min(self.num_logprobs, self.model.vocab_size), self.model.vocab_size)

    @property
    def num_guesses(self) -> int:
        """That a judge which can is asked for behind its verdicts: as many as anybody can use, where there is no draft
        model."""
        return MAX_GUESSES if self.copies and not self.model_drafts else 0

    def guesses_of(self, buffers: list[bytes]) -> Guesses | None:
        """Of a Verdict. Raises PeerMisbehaved."""
        return unpack_guesses(buffers[1], self.model.vocab_size) if len(buffers) > 1 else None

    @property
    def is_shaped(self) -> bool:
        """Does it take stages with the capability SHAPING?"""
        return not self.shaping.is_plain or self.num_logprobs >= 0


@dataclass(slots=True)
class Options:
    """Of one drafter: `draft_max`, `window`, `wire` and `acceptance` for replies that do not ask for their own."""

    draft_max: int
    window: str
    wire: str
    acceptance: WireAcceptance
    strict: bool = False
    """Rounding is the same whatever was asked before and however blocks are cut: no branches, and small batches."""
    lease_s: float = 60.0
    patience_s: float = 60.0
    model_drafts: bool = True
    """A draft model is there."""
    tuning: Tuning = TUNING
    _experiences: LRUCache[str, Experience] = field(default_factory=lambda: LRUCache(MAX_EXPERIENCES))
    """By model: what replies have learned of its pipelines serves the next ones."""

    @classmethod
    def of(cls, config: NodeConfig, tuning: Tuning = TUNING) -> Options:
        exact = config.acceptance == "exact"
        rule = WireAcceptance(config.threshold, config.acceptance == "deferred") if not exact else WireAcceptance()
        lease_s, patience_s = config.timeouts.lease_s, config.patience_s
        named = config.draft_max, config.window, config.wire, rule, config.strict
        return cls(*named, lease_s, patience_s, not config.no_draft_model, tuning)

    def reply(
        self, body: GenerateBody, model: Model, vocabulary: Vocab, foreign: frozenset[int] = frozenset()
    ) -> ReplyOptions:
        """`vocabulary`: the model's; `foreign`: as in ReplyOptions. Raises BadInput."""
        room = room_of(model.width)
        draft_max = min(self.draft_max if body.draft_max < 0 else body.draft_max, self._max_draft(room))
        experience = self._experiences.setdefault(model.model_id, Experience(self.tuning))
        terms = Terms(draft_max, experience, hedges=not self.strict, model=self.model_drafts)
        window = policy_of(body.window or self.window, terms)
        largest = max(draft_max, window.plan().block)  # a plan for ever knows no draft_max
        if largest > room // 2:
            raise BadInput(f"blocks of {largest} hidden states of {model.name} are too large: {room // 2} at most")
        rule = self._rule(body)
        if body.constraint is not None and body.ignore_eos:
            raise BadInput("a constrained reply ends where it is complete: ignore_eos does not go with it")
        if body.constraint is not None and model.vocab_size > MAX_VOCAB_SIZE:
            raise BadInput(f"{model.name} says that it has {model.vocab_size} tokens: too many to constrain it")
        highest = max((token for token, _ in body.shaping.bias), default=0)
        if highest >= model.vocab_size:
            raise BadInput(f"logit_bias: token {highest}: {model.name} has token ids below {model.vocab_size}")
        return ReplyOptions(
            model=model,
            asked=body.sampling,
            acceptance=rule,
            wire=parse_wire(body.wire or self.wire),
            window=window,
            max_tokens=body.max_tokens - len(body.tokens),
            end_tokens=_named(body.stop, vocabulary) | (frozenset() if body.ignore_eos else vocabulary.end_tokens),
            chunk_positions=max(1, min(PREFILL_POSITIONS, room - largest)),
            fixed_chunks=self.strict,
            drafted=draft_max > 0,
            key_tokens=vocabulary.key_tokens[: -(-model.vocab_size // 8)] if rule.threshold > 0 else b"",
            num_resumed=len(body.tokens),
            keep=body.keep and not self.strict,
            lease_s=self.lease_s,
            patience_s=body.patience_s or self.patience_s,
            foreign=foreign,
            shaping=body.shaping,
            num_logprobs=body.num_logprobs,
            model_drafts=self.model_drafts,
        )

    def _rule(self, body: GenerateBody) -> WireAcceptance:
        """Log-probabilities are of what the model says, so what they are told of is accepted exactly."""
        if body.num_logprobs < 0:
            return self.acceptance if body.acceptance is None else body.acceptance
        if body.acceptance is not None and body.acceptance.threshold > 0:
            raise BadInput("logprobs: they go with exact acceptance alone")
        return WireAcceptance()

    def _max_draft(self, room: int) -> int:
        return min(room // 2, MAX_SINGLES_POSITIONS - 1) if self.strict else room // 2


def _named(stops: Sequence[str], vocabulary: Vocab) -> frozenset[int]:
    """Stop strings that name a control token: no text of a reply has them. Raises BadInput where more stands beside."""
    texts = [stop for stop in stops if stop not in vocabulary.names]
    for stop in texts:
        if inside := [name for name in vocabulary.names if len(name) > 1 and name in stop]:
            name = max(inside, key=len)
            raise BadInput(f"the stop text {stop!r} is never seen: {name!r} is a control token; name it alone")
    return frozenset(vocabulary.names[stop] for stop in stops if stop not in texts)


def room_of(width: int) -> int:
    """Positions whose hidden states fit one frame, in any wire type."""
    return min(MAX_BLOCK_POSITIONS, MAX_FRAME_BYTES // (4 * width + 4))
