"""What comes in buffers where a reply is shaped, constrained or has tools: Opens, notes, masks, log-probabilities.

At the judge what an owner says, at the owner what a judge says, at the client what a drafter says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
from msgspec import structs

from dsdnode.client import part as part_
from dsdnode.client import reading
from dsdnode.client.calls import CallReader
from dsdnode.client.part import Part, Way
from dsdnode.engine.port import ShardInfo
from dsdnode.errors import BadInput, DsdError, PeerMisbehaved, PeerUnavailable
from dsdnode.node.shard import terms
from dsdnode.node.shard.terms import Asked, BlockBuffers
from dsdnode.speculation import masks, shaping
from dsdnode.speculation.digest import DIGEST_BYTES
from dsdnode.speculation.shaper import Past, Shaper
from dsdnode.speculation.stage.cache import Branch
from dsdnode.speculation.stage.known import KnownLine
from dsdnode.wire import codec, logprobs, messages, replies
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.logprobs import PieceLogprobs, SaidPosition, SaidToken, TokenLogprobs
from dsdnode.wire.masks import MAX_MASKS
from dsdnode.wire.messages import Block, JudgeNote, Open
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.shaping import WireShaping
from dsdnode.wire.tensors import pack_states
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser
from tests.protocol import examples
from tests.protocol.figures import line_digests

MISBEHAVED = (PeerMisbehaved,)
VOCABULARY, WIDTH = 1000, 4
SHARD = ShardInfo("a" * 64, "m", "llama", 16, 32, 32, WIDTH, VOCABULARY, "b" * 64, 4096, 4096, 8, True)
BIASES = ((7, -100.0), (9, 1.5), (VOCABULARY, 100.0), (9, -1.5))
SHAPINGS = (
    WireShaping(0.5, 0.25, 1.25, 2, BIASES), WireShaping(bias=BIASES), WireShaping(-2.0, 2.0, 0.1, -1),
    WireShaping(0.0, 0.0, 10.0, 1 << 20), WireShaping(presence=2.0, last_tokens=0),
)  # fmt: skip
BODY_TARGETS = (codec.decode_body, codec._strict, codec._convert)


def _plain(value: object) -> Any:
    return msgpack.unpackb(codec.encode_body(value))


# --- a shaped Open, and its blocks

_OPEN = _plain(structs.replace(examples._open(), index=1, seal_key=bytes(16), max_positions=64))
_LINE = (3, 1, 4, 1, 5)
_STAGES = tuple(
    _plain(structs.replace(examples._stages(), shaping=one, num_prompt=2, num_line=5, num_logprobs=1, masked=True))
    for one in SHAPINGS
)
_DIGESTS = b"".join(line_digests())


def _shaped_open(mutator: Mutator) -> Case:
    """The header mostly as it was: wire.py changes those."""
    opened = mutator.packed(_OPEN) if mutator.rng.random() < 0.2 else msgpack.packb(_OPEN)
    told = pack_tokens(_LINE[mutator.below(6) :])
    told = mutator.scratched(told) if mutator.rng.random() < 0.3 else told
    keys = mutator.any_of((b"", b"", b"\xff" * 125, b"\xff" * 126))
    buffers = [mutator.packed(mutator.any_of(_STAGES)), _DIGESTS, keys, told]
    return opened, *buffers[: mutator.any_of((4, 4, 4, 4, 3, 2, 1))]


def _read_open(case: Case) -> None:
    opened, *buffers = case
    asked = Asked.of(codec.decode_body(opened, Open), buffers, SHARD)
    assert len(asked.digests) <= DIGEST_BYTES * (asked.message.max_positions + 1), "a longer line than it may be"
    has_room = asked.message.max_positions <= SHARD.context_tokens
    assert (asked.known is not None) == (asked.judges and asked.shaping.has_past and has_room)
    if asked.known is not None:
        assert len(asked.known.told) <= asked.known.length, "more tokens than the line has"
        _shape(asked, asked.known.told)


def _shape(asked: Asked, told: Any) -> None:
    """Whatever is asked, a judge has logits to draw from."""
    logits = np.linspace(-30, 30, VOCABULARY, dtype=np.float32)
    shaper = Shaper(asked.shaping, Past.of(told, asked.body.num_prompt), VOCABULARY)
    for token in (5, VOCABULARY - 1, 5):
        assert np.isfinite(shaper.shaped(logits)).all(), "there is nothing to draw from"
        shaper.follow(token)


def _fits_open(case: Case) -> bool:
    return max(map(len, case)) <= codec.MAX_BODY_BYTES


_NOTES = (_plain(JudgeNote()), _plain(JudgeNote((14,))), _plain(JudgeNote((1, 2, 3))))
_FIRST, _ASKED = (
    Asked.of(structs.replace(examples._open(), index=index, max_positions=64, wire="f32"), buffers, SHARD)
    for index, buffers in enumerate(
        [[codec.encode_body(structs.replace(examples._stages(), shaping=SHAPINGS[0], num_line=5, num_prompt=2)),
          _DIGESTS, b"", pack_tokens(_LINE)]] * 2
    )
)  # fmt: skip
_STATES = pack_states(np.ones((3, WIDTH), np.float32), "f32")


def _judge_note(mutator: Mutator) -> Case:
    """Where the block begins and what it gives, at which stage, and its note; digests, tokens and states are right."""
    note = mutator.packed(mutator.any_of(_NOTES))
    if mutator.rng.random() < 0.02:
        note = b"\x91\xdc\xff\xf0" + b"\1" * 0xFFF0
    return bytes([mutator.any_of((5, 5, 4, 3, 0, 62)), mutator.below(4), mutator.below(2)]), note


def _read_note(case: Case) -> None:
    (position, num_given, index), note = case
    block = Block(bytes(16), 0, 1, 0, 0, position, num_given, 3 - num_given, 0)
    asked, draft = (_FIRST, _ASKED)[index], (8,) * block.num_draft
    tokens = pack_tokens([8] * (block.num_draft if index else 3))
    has = BlockBuffers.of(asked, block, [bytes(32), tokens, *([_STATES] if index else []), note], SHARD)
    assert has.note is not None and has.note.data == note and (index == 1 or not has.note.given)
    if asked.known is not None:
        _look_back(asked.known, block, has.note.given, draft)


def _look_back(known: KnownLine, block: Block, given: tuple[int, ...], draft: tuple[int, ...]) -> None:
    behind = known.behind(block, given, draft)
    branch = Branch(1, 0, 0, 0, [bytes(8)])
    branch.tail = [*(8,) * max(0, block.position - known.length), *behind]
    past = known.past(branch, block, draft)
    start = block.position + block.num_given + (block.num_given == 0)
    assert len(past.tokens) <= start and past.num_prompt <= known.num_prompt, "it looks back at what is not there"


def _fits_note(case: Case) -> bool:
    return len(case[1]) <= terms.MAX_NOTE_BYTES


# --- masks

NUM_BYTES = masks.num_bytes_of(VOCABULARY)
_MASKS = tuple(
    np.packbits(np.isin(np.arange(NUM_BYTES * 8), tokens), bitorder="little").tobytes()
    for tokens in ([], [3], [3, 999], list(range(0, 1000, 3)), list(range(1000)), [1001])
)
"""The first one and the last allow nothing."""
_KNOWN = tuple((masks.hash_of(one), one) for one in _MASKS[1:5])


def _one_mask(mutator: Mutator) -> tuple[bytes, bytes]:
    """What it is called, and how it is packed."""
    mask = mutator.any_of(_MASKS)
    packed = masks.pack(mask, _KNOWN[: mutator.below(3)])
    packed = mutator.scratched(packed) if mutator.rng.random() < 0.3 else packed
    return (masks.hash_of(mask) if mutator.rng.random() < 0.9 else mutator.any_of(_KNOWN)[0]), packed


def _packed_mask(mutator: Mutator) -> Case:
    return _one_mask(mutator)


def _unpack_mask(case: Case) -> None:
    name, packed = case
    known = masks.Masks(VOCABULARY)
    known.put(*_KNOWN[0])
    if known.keep(name, packed):
        mask = known.get(name)
        assert mask is not None and masks.hash_of(mask) == name and masks.allowed(mask, VOCABULARY).any()
    elif masks.base_of(packed) == _KNOWN[0][0]:
        raise AssertionError("what it is packed against is here")


def _told_masks(mutator: Mutator) -> Case:
    """Digests, hashes as many, and masks."""
    num = mutator.any_of((0, 1, 2, 5))
    digests = b"".join(bytes([index]) * DIGEST_BYTES for index in range(num))
    names = b"".join(mutator.any_of((*_KNOWN, (masks.ANY, b"")))[0] for _ in range(num))
    names = mutator.scratched(names) if mutator.rng.random() < 0.1 else names
    packed = [list(_one_mask(mutator)) for _ in range(mutator.any_of((0, 1, 1, 3)))]
    body = mutator.packed(packed) if mutator.rng.random() < 0.6 else msgpack.packb(packed * mutator.any_of((1, 99)))
    return digests, names, body


def _learn_masks(case: Case) -> None:
    names, packed = terms.told_by(list(case))
    assert len(names) <= masks.MAX_PLACES and len(packed) <= MAX_MASKS and set(map(len, names)) <= {DIGEST_BYTES}
    places = masks.Places(masks.Masks(VOCABULARY))
    places.learn(names)
    for one in packed:
        places.masks.keep(one.name, one.packed)
    found, lacking = places.of([*names]), places.lacking([*names])
    assert (found is None) == bool(lacking), "it neither has them nor asks for them"
    assert all(len(mask) == NUM_BYTES for mask in found or ())


def _fits_masks(case: Case) -> bool:
    return len(case[2]) <= codec.MAX_BODY_BYTES


# --- log-probabilities

_ROWS = tuple(TokenLogprobs(token, -0.5, ((token, -0.5), (9, -1.25))) for token in (5, 6, VOCABULARY - 1))
_SAID = PieceLogprobs(
    tuple(SaidPosition(one, (one,)) for one in (SaidToken(5, -0.5, "fü".encode()), SaidToken(6, -0.25, b"nf")))
)


def _verdict_logprobs(mutator: Mutator) -> Case:
    """And how many of the most likely were asked for."""
    num_top = mutator.below(3)
    rows = [replace(one, top=one.top[:num_top]) for one in _ROWS[: mutator.below(4)]]
    data = bytearray(logprobs.pack_logprobs(rows))
    if data and mutator.rng.random() < 0.7:
        place = 4 * mutator.below(len(data) // 4)
        data[place : place + 4] = mutator.any_of(NUMBERS)
    return mutator.scratched(bytes(data)) if mutator.rng.random() < 0.05 else bytes(data), bytes([num_top])


NUMBERS = (
    *(np.float32(one).tobytes() for one in (0, -0.0, np.nan, np.inf, -np.inf, -9999, -1e4, 1, 1.5, 1e-45)),
    *(np.int32(one).tobytes() for one in (-1, VOCABULARY, VOCABULARY - 1, -(1 << 31), 0)),
)  # fmt: skip


def _read_verdict_logprobs(case: Case) -> None:
    num_top = case[1][0]
    told = logprobs.unpack_logprobs(case[0], num_top, VOCABULARY)
    assert logprobs.unpack_logprobs(logprobs.pack_logprobs(told), num_top, VOCABULARY) == told
    for row in told:
        assert all(0 <= one < VOCABULARY and -9999 <= value <= 1 for one, value in (*row.top, (row.token, row.logprob)))


def _piece(mutator: Mutator) -> Case:
    """The ids of a piece, its text and its log-probabilities; and which stages it is said to come by."""
    ids = pack_tokens(mutator.any_of(((5, 6), (5, 6), (5, 6), (5,), ())))
    text = mutator.any_of((b"f\xc3\xbcnf", b"\xff", b"x" * 9000))
    return ids, text, mutator.packed(_SAID_PLAIN), mutator.packed(_ROUTED)


_SAID_PLAIN = _plain(_SAID)
_ROUTED = _plain(replies.Routed(examples.REQUEST, (("ab" * 32, 0, 4), ("cd" * 32, 4, 8))))
_ASKED_BODY = structs.replace(examples._body(), num_logprobs=1)


def _read_piece(case: Case) -> None:
    part = Part(examples.REQUEST, _ASKED_BODY, Way.ASKED, (), "", 0)
    told = part.read(replies.Piece(examples.REQUEST, 0, 1), list(case[:3]))
    assert isinstance(told, part_.Piece) and len(told.logprobs) == len(told.tokens)
    assert all(len(one.top) <= 1 and len(one.said.data) <= logprobs.MAX_TOKEN_BYTES for one in told.logprobs)
    part.by(codec.decode_body(case[3], replies.Routed))
    assert len(part.route) <= messages.MAX_STAGES


# --- texts that were read, and how calls are written

ANSWERS = (
    replies.TextRead(), replies.TextRead(), replies.TextRead(), replies.TextRead(), messages.Refused("\x1b[2J", True),
    replies.Finished(bytes(16), "", "BadInput", "why"), replies.Finished(bytes(16), ""), messages.Pong(),
)  # fmt: skip
"""To ReadText."""


def _text_read(mutator: Mutator) -> Case:
    buffers = [pack_tokens([5, 6, 1 << 23]), mutator.any_of((b"f\xc3\xbcnf", b"\xff\xfe", b""))]
    ids = mutator.scratched(buffers[0]) if mutator.rng.random() < 0.5 else buffers[0]
    return bytes([mutator.below(len(ANSWERS))]), *[ids, buffers[1]][: mutator.any_of((2, 2, 2, 2, 1, 0))]


def _read_text(case: Case) -> None:
    told = reading._read(ANSWERS[case[0][0]], case[1:])
    assert all(0 <= token < part_.MAX_VOCAB for token in told.tokens)
    told.text.encode()


FORMATS = (
    CallFormat(), CallFormat(open="", close="", arguments_key="parameters", lead="<|python_tag|>"),
    CallFormat(open="[TOOL_CALLS]", close=""),
    CallFormat(kind="named", open="<|calls|>", lead="<|call|>functions.", mid="<|args|>", end="<|/call|>",
               close="<|/calls|>"),
    CallFormat(kind="tagged", open="<tool_call>", lead="<function=", mid=">", end="</function>", close="</tool_call>",
               key_open="<parameter=", key_close=">\n", value_close="\n</parameter>"),
)  # fmt: skip
_FORMATS = tuple({"kind": "json"} | _plain(one) for one in FORMATS)


def _call_format(mutator: Mutator) -> Case:
    return (mutator.packed(mutator.any_of(_FORMATS)),)


def _read_format(case: Case) -> None:
    """Whoever reads by what is accepted gets on."""
    told = part_.calls_of([b"", case[0]])
    assert codec.decode_body(codec.encode_body(told), CallFormat) == told
    marks = "".join(told.marks)
    reader = CallReader(told, [])
    for _ in range(3):
        reader.feed(f"{marks}f{marks}")
    reader.finish()


def _fits_body(index: int) -> Callable[[Case], bool]:
    return lambda case: len(case[index]) <= codec.MAX_BODY_BYTES


NOTED = (terms._note, BlockBuffers.of, KnownLine)
PARSERS = (
    Parser("shaped-open", _shaped_open, _read_open, MISBEHAVED, (Asked.of, shaping, *BODY_TARGETS), _fits_open),
    Parser("judge-note", _judge_note, _read_note, MISBEHAVED, (*NOTED, *BODY_TARGETS), _fits_note),
    Parser(
        "packed-mask", _packed_mask, _unpack_mask, MISBEHAVED,
        (masks.pack, masks.unpack, masks.base_of, masks._inflated, masks.Masks), lambda case: bool(case[1]),
    ),
    Parser("masks", _told_masks, _learn_masks, MISBEHAVED, (terms.told_by, masks.Places, *BODY_TARGETS), _fits_masks),
    Parser(
        "verdict-logprobs", _verdict_logprobs, _read_verdict_logprobs, MISBEHAVED, (logprobs.unpack_logprobs,),
        lambda case: len(case[0]) % (8 * (1 + case[1][0])) == 0,
    ),
    Parser("piece", _piece, _read_piece, (DsdError,), (Part, part_.ids_of, *BODY_TARGETS), _fits_body(2)),
    Parser(
        "text-read", _text_read, _read_text, (PeerMisbehaved, PeerUnavailable, BadInput, DsdError),
        (reading._read, part_.ids_of), lambda case: True,
    ),
    Parser("call-format", _call_format, _read_format, MISBEHAVED, (CallFormat, part_.calls_of, *BODY_TARGETS),
           _fits_body(0)),
)  # fmt: skip
