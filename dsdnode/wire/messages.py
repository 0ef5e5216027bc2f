"""Every noun that travels between peers: one frozen, numbered struct each, its limits in its types.

A message is one msgpack header (<= 4 KiB) and at most 8 raw buffers; which buffers a message has its docstring says.
Tags are never reused. Session messages: speculation, section 4.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dsdnode.wire.guesses import MAX_GUESSES
from dsdnode.wire.shaping import PLAIN, NumLogprobs, WireShaping

PROTOCOL_VERSION = 2
"""1 is that of dsdnode 0.1.0, which reads other records: who speaks it is refused in words (net/handshake.py)."""
MAX_ADDRESSES = 4
"""Of a peer."""
MAX_REASON = 512
"""Characters of a reason in words."""
MAX_CONTACTS = 40
"""At most 2k peers a reply (Kademlia's k = 20)."""
MAX_RECORD_BYTES = 8 * 1024
MAX_ROLES = 2
"""Of a peer: it hosts layers, or drafts, or both, and has a record for each."""
SESSION_OWNER_BYTES = 8
"""So many last bytes of a session's id are the first ones of its owner's peer id."""
MAX_STAGES = 64
TEXT_PIECE_BYTES = 1 << 20
MAX_TEXT_PIECES = 64
"""Of a model's text file: 64 MiB, as much as the header of a model's file that we read; the largest known has 16."""
MAX_LAYERS = 4096
WIRE_TYPES = ("f32", "f16", "q8")
"""In which hidden states travel (wire/tensors.py)."""
MAX_BLOCK_POSITIONS = 1024
MIN_TEMPERATURE = 1e-3
"""A smaller one is greedy decoding under another name (a token .02 behind in logits has a chance of 2e-9), and so small
ones overflow: 1 / 1e-40 is infinite in float32."""
MAX_POSITIONS = 1 << 20
MAX_KILLED = 2
"""So often an engine may die of a request, or fail at it: once may be chance, a third one would go the same way."""
MAX_SEAL_BYTES = 8
"""As a digest has: who guesses sends 2^63 messages."""
MAX_SEAL_KEY_BYTES = 16

Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
SessionId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Position = Annotated[int, Meta(ge=0, le=MAX_POSITIONS)]
TokenId = Annotated[int, Meta(ge=0, le=(1 << 24))]
Layer = Annotated[int, Meta(ge=0, le=MAX_LAYERS)]
Epoch = Annotated[int, Meta(ge=0, le=1 << 40)]
Address = Annotated[str, Meta(max_length=128)]
Reason = Annotated[str, Meta(max_length=MAX_REASON)]
Name = Annotated[str, Meta(max_length=96)]
Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Milliseconds = Annotated[float, Meta(ge=0, le=86_400_000)]
StageTimes = Annotated[tuple[Milliseconds, ...], Meta(max_length=MAX_STAGES)]
Queues = Annotated[tuple[Annotated[int, Meta(ge=0, le=1 << 16)], ...], Meta(max_length=MAX_STAGES)]
Seal = Annotated[bytes, Meta(max_length=MAX_SEAL_BYTES)]
RelaxedPositions = Annotated[tuple[Position, ...], Meta(max_length=256)]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of every message."""


class Contact(msgspec.Struct, frozen=True, array_like=True):
    """How to reach a peer: its Ed25519 public key (its SHA-256 is the id), where it listens (none: not dialled)."""

    public_key: Bytes32
    addresses: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)] = ()


# --- links (net/) -------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=1):
    """First on every connection, caller to callee; `proof`: HMAC of (caller, callee, nonce) under the swarm key."""

    version: Annotated[int, Meta(ge=0, le=65535)]
    contact: Contact
    capabilities: Annotated[tuple[Name, ...], Meta(max_length=32)]
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]
    proof: Annotated[bytes, Meta(max_length=32)]
    bulk: bool


class Welcome(Message, frozen=True, tag=2):
    """The callee accepts and proves that it, too, knows the swarm key: HMAC of (callee, caller, the caller's nonce)."""

    version: Annotated[int, Meta(ge=0, le=65535)]
    capabilities: Annotated[tuple[Name, ...], Meta(max_length=32)]
    proof: Annotated[bytes, Meta(max_length=32)]


class Refused(Message, frozen=True, tag=3):
    """No, and why, in words for the user. Answers what cannot be served, too; `retry`: a limit, not a rule."""

    reason: Reason
    retry: bool = False


class Ping(Message, frozen=True, tag=4):
    """Is the application alive (not only the socket)?"""


class Pong(Message, frozen=True, tag=5):
    pass


# --- DHT ----------------------------------------------------------------------------------------------------------


class FindNode(Message, frozen=True, tag=10):
    """Answered by Nodes: the closest known to `target`."""

    target: Bytes32


class Nodes(Message, frozen=True, tag=11):
    """Buffer 0: msgpack list of Contact, at most 2k."""


class FindProviders(Message, frozen=True, tag=12):
    """Answered by Providers."""

    key: Bytes32


class Providers(Message, frozen=True, tag=13):
    """Buffer 0: msgpack list of Contact, the closest known to the key. Buffer 1: list of signed records (bytes)."""


class Announce(Message, frozen=True, tag=14):
    """Buffers: the provider's signed records under this key, all of them. Answered by Stored or Refused."""

    key: Bytes32


class Stored(Message, frozen=True, tag=15):
    """Buffers, only where something newer of it is held: that (a restarted provider counts on from it)."""


class FindMe(Message, frozen=True, tag=16):
    """Call me at these addresses of mine, over new connections, and say which were answered. Answered by Reached."""

    addresses: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=MAX_ADDRESSES)]


class Reached(Message, frozen=True, tag=17):
    """`source`: the IP address that the asker is seen at ("": not known). Of its addresses those that answered, and
    those that were called: what is nearer than the asker, or a port of a machine's services, is not."""

    source: Annotated[str, Meta(max_length=64)]
    reached: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]
    tried: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]


class FindRelay(Message, frozen=True, tag=18):
    """Others do not reach me: where do you relay? Answered by RelayAt or Refused."""


class RelayAt(Message, frozen=True, tag=19):
    """At the host where the asker reaches me, this TCP port (net/relay/). `hosts`: all my IP addresses where others
    reach me: who has another family than the asker is to call one of those."""

    port: Annotated[int, Meta(ge=1, le=65535)]
    hosts: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=MAX_ADDRESSES)] = ()


class Visit(Message, frozen=True, tag=40):
    """Somebody answers me there, perhaps because it has called me: call it once (LOOK), so that it knows whether its
    router lets in anybody."""

    public_key: Bytes32
    address: Address


class FindText(Message, frozen=True, tag=41):
    """A drafter to a shard: piece number `piece` of the file that your model's texts are read with. Answered by
    TextPiece or Refused."""

    text_hash: Hex64
    piece: Annotated[int, Meta(ge=0, lt=MAX_TEXT_PIECES)]


class TextPiece(Message, frozen=True, tag=42):
    """Buffer 0: the piece, TEXT_PIECE_BYTES of the file or its rest, in zlib's format. `num_bytes`: of all of it."""

    num_bytes: Annotated[int, Meta(ge=1, le=MAX_TEXT_PIECES * TEXT_PIECE_BYTES)]


# --- a reply in the pipeline --------------------------------------------------------------------------------------


def session_of(owner: bytes, fresh: bytes) -> bytes:
    """A session's id, of bytes that are random and whose it is. `owner`: a peer id."""
    return fresh + owner[:SESSION_OWNER_BYTES]


def is_session_of(owner: bytes, session: bytes) -> bool:
    """Nobody can take a session's place at a stage before its owner comes there, though many may know its id."""
    return session[-SESSION_OWNER_BYTES:] == owner[:SESSION_OWNER_BYTES]


class WireSampling(msgspec.Struct, frozen=True, array_like=True):
    """How the judge draws (speculation/sampling.py). `temperature` is 0 (greedy) or at least MIN_TEMPERATURE."""

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0

    def __post_init__(self) -> None:
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise ValueError(f"a temperature of {self.temperature:g}: it is 0 or at least {MIN_TEMPERATURE:g}")


class WireAcceptance(msgspec.Struct, frozen=True, array_like=True):
    """How the judge accepts (speculation/acceptance.py); threshold 0 is exact, the more the laxer."""

    threshold: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    deferred: bool = False


class StagePlace(msgspec.Struct, frozen=True, array_like=True):
    contact: Contact
    start: Layer
    end: Annotated[int, Meta(ge=1, le=MAX_LAYERS)]


class Open(Message, frozen=True, tag=20):
    """Owner to every stage: reserve cache, know the way back; each `route` counts up. Answered by Opened or Refused.

    `seal_key`: in the judge's alone (speculation/seal.py)."""

    session: SessionId
    route: Annotated[int, Meta(ge=0, le=1 << 20)]
    index: Annotated[int, Meta(ge=0, lt=MAX_STAGES)]
    model_id: Hex64
    owner: Contact
    sampling: WireSampling
    max_positions: Position
    lease_s: Annotated[float, Meta(gt=0, le=3600)]
    wire: Annotated[str, Meta(max_length=8)]
    acceptance: WireAcceptance = WireAcceptance()
    seal_key: Annotated[bytes, Meta(max_length=MAX_SEAL_KEY_BYTES)] = b""


class OpenStages(msgspec.Struct, frozen=True, array_like=True):
    """Buffer 0 of Open (big for a header). Buffer 1: digests, 8 bytes, of the owner's line after 0, 1, 2 ... tokens.

    Buffer 2, to the judge, relaxed mode only: bitmap of token ids that must match exactly, least significant bit first.
    Ids beyond its end must match too. Buffer 3, to the judge: the line's last tokens, int32, as many as its shaping
    counts, or all, where it is to guess at `num_guesses` behind each verdict. `num_line`: tokens of the line;
    `num_prompt`: of these, the prompt's. `masked`: masks."""

    stages: Annotated[tuple[StagePlace, ...], Meta(min_length=1, max_length=MAX_STAGES)]
    shaping: WireShaping = PLAIN
    num_prompt: Position = 0
    num_line: Position = 0
    num_logprobs: NumLogprobs = -1
    masked: bool = False
    num_guesses: Annotated[int, Meta(ge=0, le=MAX_GUESSES)] = 0


class JudgeNote(msgspec.Struct, frozen=True, array_like=True):
    """Last buffer of Block, in a session whose judge has to know more than a stage: passed on from stage to stage.
    `given`: the block's given tokens behind the line of Open. `num_guesses`: behind its verdict, as in OpenStages."""

    given: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_BLOCK_POSITIONS)] = ()
    num_guesses: Annotated[int, Meta(ge=0, le=MAX_GUESSES)] = 0


class Opened(Message, frozen=True, tag=21):
    """Stage to owner: ready; of the line whose digests came with Open, positions [0, length) are in its cache."""

    length: Position = 0


class Block(Message, frozen=True, tag=22):
    """Owner to first stage to ... to the judge: positions [position, position + num_given + num_draft) of `epoch`.

    An epoch is its `parent`'s tokens up to `base`, then its own; parent 0 is nobody's number: any cached sequence whose
    digest at `base` fits may serve (recovery). `stage_ms`: own times of the stages passed; `waited_ms`: how long it lay
    there before; `queue`: how many other sessions had work waiting there. Buffers: 0 digests, 8 bytes each, of the
    sequence before the block and after each position (n + 1); 1 token ids int32: given and draft to the first stage,
    draft alone after it; 2 hidden states [n, width] in `wire`'s type (after the first stage); last, where the session's
    shaping has a past, JudgeNote.
    """

    session: SessionId
    route: Annotated[int, Meta(ge=0, le=1 << 20)]
    epoch: Epoch
    parent: Epoch
    base: Position
    position: Position
    num_given: Annotated[int, Meta(ge=0, le=MAX_BLOCK_POSITIONS)]
    num_draft: Annotated[int, Meta(ge=0, le=MAX_BLOCK_POSITIONS)]
    floor: Epoch
    stage_ms: StageTimes = ()
    waited_ms: StageTimes = ()
    queue: Queues = ()


class Verdict(Message, frozen=True, tag=23):
    """Judge to owner, cumulative: in `epoch` everything before `decided` stands, there `token`. Times as in Block.

    `relaxed`: positions before `decided` where the draft stands though it is not what the judge drew; also some that
    earlier verdicts told of: these may have been lost. Of a block that was closed unrun the judge's times are missing.
    `seal`: the closing's, where another stage repeats it; without that only the judge is believed. Buffer 0: the
    log-probabilities that were asked for, of the last positions up to `decided` (wire/logprobs.py); 1: guesses behind
    `token` (wire/guesses.py), where there are some."""

    session: SessionId
    route: Annotated[int, Meta(ge=0, le=1 << 20)]
    epoch: Epoch
    decided: Position
    token: TokenId
    stage_ms: StageTimes = ()
    waited_ms: StageTimes = ()
    queue: Queues = ()
    relaxed: RelaxedPositions = ()
    seal: Seal = b""


class Closed(Message, frozen=True, tag=24):
    """Judge to every stage: in `epoch` nothing at or after `position` stands, nor any descendant with base beyond it.

    `token` is the one that stands at `position`, `relaxed` as in Verdict: any stage can answer a late block with the
    closing verdict, with the judge's `seal` on it.
    """

    session: SessionId
    route: Annotated[int, Meta(ge=0, le=1 << 20)]
    epoch: Epoch
    position: Position
    token: TokenId
    relaxed: RelaxedPositions = ()
    seal: Seal = b""


class Nack(Message, frozen=True, tag=25):
    """Stage to owner: I cannot append to `epoch`; its first `length` positions are what I have (0: nothing usable)."""

    session: SessionId
    route: Annotated[int, Meta(ge=0, le=1 << 20)]
    epoch: Epoch
    index: Annotated[int, Meta(ge=0, lt=MAX_STAGES)]
    length: Position


class SessionLost(Message, frozen=True, tag=26):
    """Stage to owner: I do not know this session any more (worker died, lease over, restart); old `route`: old news.

    `culprit`: it is this session's own work that the worker died of, or could not do."""

    session: SessionId
    index: Annotated[int, Meta(ge=0, lt=MAX_STAGES)]
    reason: Reason
    route: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    culprit: bool = False


class Close(Message, frozen=True, tag=27):
    """Owner to every stage: the reply is over, free everything."""

    session: SessionId


class Trace(Message, frozen=True, tag=29):
    """Owner to every stage, after a silence: how far has the block of `epoch` come that ends at `end`? Answered by
    Traced, or Refused where the session is not known."""

    session: SessionId
    route: Annotated[int, Meta(ge=0, le=1 << 20)]
    epoch: Epoch
    end: Position


class Traced(Message, frozen=True, tag=35):
    """Stage to owner: the block has not come (0), is here (1), was passed on or judged (2). `trouble`: why the next
    stage cannot be reached, in words; empty: nothing is known against it."""

    reached: Annotated[int, Meta(ge=0, le=2)]
    trouble: Reason = ""


class Park(Message, frozen=True, tag=28):
    """Owner to every stage: the reply is over, a next one may follow in this session, with an Open of a higher route.

    What is cached may be kept for `keep_s`; a stage that needs the place before then says nothing.
    """

    session: SessionId
    route: Annotated[int, Meta(ge=0, le=1 << 20)]
    keep_s: Annotated[float, Meta(gt=0, le=3600)]
