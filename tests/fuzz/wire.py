"""Everything that comes over the network: headers of every kind, buffers, records, joins, greetings."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
from msgspec import structs

from dsdnode.addresses import parse_address
from dsdnode.cli import render, slash
from dsdnode.client.request import ReplyStats
from dsdnode.errors import BadInput, PeerMisbehaved, PeerUnavailable
from dsdnode.net import handshake
from dsdnode.net.handshake import Handshake
from dsdnode.speculation.digest import DIGEST_BYTES, split
from dsdnode.wire import codec, invitations, joins, messages, numbers, records, replies, tensors
from dsdnode.wire.messages import Contact, Hello, OpenStages, Welcome
from dsdnode.wire.shaping import WireShaping
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser
from tests.protocol import examples, peers
from tests.protocol import invitations as coded
from tests.protocol.figures import line_digests

WIDTH, VOCABULARY = 40, 1000
MAX_BUFFER_BYTES = 64
SWARM_KEY = hashlib.sha256(b"alice's swarm").digest()
CALLEE, CALLER = peers.identity_of("alice"), peers.identity_of("bob")
HOSTS = (
    "192.0.2.7",
    "192.0.2.8",
    "198.51.100.20",
    "[::1]",
    "bob",
    "[2001:db8::20]",
    "[::]",
    "[::ffff:192.0.2.7]",
    "alice.example",
    "a_b",
    "a.",
    "-a",
    "[1]",
)
PORTS = ("29170", "29171", "80", "443", "5000", "1", "65535", "65536", "0", "00080", "")
PACKED_CODES = tuple(
    invitations._packed(one["code"][6:-7]) + more
    for one in coded.codes()["cases"]
    for more in (b"", b"\x80\x00", b"\xff\x03abc")
)
HARMLESS = ("\n> ", '"', "\u200b", "-", " ", "`", "**", "\u2060", "\u00ad", "\r\n", "_", "\u201c", "~~", "||", "\ufeff")
CODE_PARTS = ("dsd1", "o", "I", "u", "é", "DSD1", "z", "0", "\u0661", *HARMLESS)
KEYS = (CALLEE.public_key.hex(), CALLER.public_key.hex(), CALLEE.public_key.hex().upper(), "0" * 64, "f" * 64)
JOIN_PARTS = ("dsd://", "/", ",", ":", "[", "]", "::1", "0", "65536", "a" * 64, "é", "\n", " ", "_", ".", "\u0661", "-")


def _plain(value: object) -> Any:
    """As msgpack has it, ready to be changed."""
    return msgpack.unpackb(codec.encode_body(value))


# --- headers


HEADERS = tuple(msgpack.unpackb(bytes.fromhex(one["header"])) for one in examples.headers()["cases"])
WHOLE = tuple(tuple(bytes.fromhex(frame) for frame in one["frames"]) for one in examples.whole_messages()["cases"])


def _header(mutator: Mutator) -> Case:
    if mutator.rng.random() < 0.3:
        head, *buffers = mutator.any_of(WHOLE)
        return (mutator.packed(msgpack.unpackb(head)), *buffers)
    buffers = [b"x" * mutator.below(MAX_BUFFER_BYTES)] * mutator.any_of((0, 0, 0, 1, 2, 3, 8))
    return (mutator.packed(mutator.any_of(HEADERS)), *buffers)


def _decode(case: Case) -> None:
    """What is accepted is said again in as many words."""
    told = codec.decode(case)
    again = codec.encode(told.message, told.buffers, told.request_id, told.reply, told.deadline_ms)
    assert codec.decode(again) == told


# --- bodies


def _of_kind(kind: type[Any], *samples: object) -> tuple[Callable[[Mutator], Case], Callable[[Case], None]]:
    plain = tuple(map(_plain, samples))

    def parse(case: Case) -> None:
        told = codec.decode_body(case[0], kind)
        assert codec.decode_body(codec.encode_body(told), kind) == told
        if isinstance(told, replies.Statistics) and len(case[0]) % SHOWN_EACH == 0:
            _show_figures(told)

    return (lambda mutator: (mutator.packed(mutator.any_of(plain)),)), parse


SHOWN_EACH = 16
"""To lay them out takes ten times as long as to read them."""


def _show_figures(told: replies.Statistics) -> None:
    """As a client shows them at the end of a reply, and when it is asked."""
    stats = ReplyStats(**structs.asdict(told), threshold=0.3)
    for shown in (render.stats_line(stats), render.stats_line(stats, 1e-9), render.named(slash._figures(stats))):
        assert render.clean(shown) == shown, "it would end on a terminal"


def _fits_body(case: Case) -> bool:
    return 0 < len(case[0]) <= codec.MAX_BODY_BYTES


STATISTICS = replies.Statistics(
    completion_tokens=5, prompt_tokens=3, time_to_first_token_s=0.25, drafted=4, judged=3, accepted=2,
    acceptance_rate=0.5, copied_judged=2, copied_accepted=1,
    by_position=((3, 2), (1, 0)), plans=(replies.PlanChange(0, 0.5, "stream", 2, 4, 1, "why"),),
    pipeline=(replies.StageInfo("a" * 64, (0, 4)), replies.StageInfo("b" * 64, (4, 8))),
)  # fmt: skip
ASKED, RESUMED = examples._body(), examples._body((5, 6), (1, 2, 3))
SHAPED = structs.replace(ASKED, shaping=WireShaping(0.5, 0.25, 1.25, 64, ((7, -100.0), (9, 1.5))), num_logprobs=20)
CONSTRAINED = tuple(
    structs.replace(ASKED, constraint=one)
    for one in (
        replies.Constraint("json_schema", "{}"), replies.Constraint("regex", "a+"),
        replies.Constraint("lark", "start: /a/"), replies.Constraint("calls", '{"names": ["f"]}'),
    )
)  # fmt: skip
CONTACTS = [peers.contact_of(name) for name in peers.NAMES]
RECORD = peers.record_of("alice")
NO_MODEL = structs.replace(
    RECORD, role="drafter", weights_hash=records.NO_HASH, tokenizer_hash=records.NO_HASH, start=0, end=1, num_layers=1
)
"""Of a drafter that only copies."""
SHAPED_STAGES = structs.replace(
    examples._stages(), shaping=SHAPED.shaping, num_prompt=2, num_line=3, num_logprobs=1, masked=True
)
BODY_TARGETS = (codec.decode_body, codec._strict, codec._convert)
_open_stages, _parse_stages = _of_kind(OpenStages, examples._stages(), SHAPED_STAGES)
_generate, _parse_generate = _of_kind(
    replies.GenerateBody, ASKED, RESUMED, SHAPED, examples._with_tools(ASKED), *CONSTRAINED
)
_statistics, _parse_statistics = _of_kind(replies.Statistics, STATISTICS)


# --- contacts, records


def _contacts(mutator: Mutator) -> Case:
    return (mutator.packed(mutator.any_of((_CONTACTS, _CONTACTS * 13, []))),)


def _parse_contacts(case: Case) -> None:
    told = records.unpack_contacts(case[0])
    assert records.unpack_contacts(records.pack_contacts(told)) == told
    assert len(told) <= messages.MAX_CONTACTS


def _records(mutator: Mutator) -> Case:
    return (mutator.packed([_SIGNED] * mutator.any_of((1, 1, 2, 3))),)


def _parse_records(case: Case) -> None:
    told = records.unpack_records(case[0])
    assert records.unpack_records(records.pack_records(told)) == told
    assert len(told) <= records.MAX_RECORDS


_CONTACTS, _PAYLOADS = _plain(CONTACTS), (_plain(RECORD), _plain(NO_MODEL))
_SIGNED = records.sign_record(peers.identity_of("alice"), RECORD)
BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Unicode's Bidi_Control: they turn round what stands beside them."""
SIGNED_SHARE = 0.7
"""Of records whose maker signs whatever it is: who lies has a key, too."""


def _record(mutator: Mutator) -> Case:
    if mutator.rng.random() > SIGNED_SHARE:
        return (mutator.packed(msgpack.unpackb(_SIGNED)),)
    payload = mutator.packed(mutator.any_of(_PAYLOADS))
    signature = peers.identity_of("alice").sign(records._LABEL + payload)
    return (msgpack.packb([records.RECORD_VERSION, payload, signature]),)


def _parse_record(case: Case) -> None:
    told = records.open_record(case[0])
    assert told.public_key == RECORD.public_key, "signed by somebody else"
    assert len(told.model_id) == 64 and told.cost.at(1) >= 0 and told.contact.addresses
    assert not any(map(_unfit, told.model_name)), "it would end on a terminal"


def _unfit(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Zl", "Zp") or char in BIDI_CONTROLS


# --- buffers of numbers


def _states(mutator: Mutator) -> Case:
    """Beside the buffer: how many positions, and the wire type."""
    wire, num = mutator.any_of(messages.WIRE_TYPES), mutator.any_of((1, 1, 2, 5))
    data = mutator.any_of(STATES[wire, num])
    if mutator.rng.random() < 0.9:
        raw = bytearray(data)
        for _ in range(mutator.any_of((1, 2, 8))):
            place = mutator.below(len(raw) - 4)
            raw[place : place + 4] = mutator.any_of(FLOATS)
        data = bytes(raw)
    else:
        data = mutator.scratched(data)
    return data, bytes([num]), wire.encode()


FLOATS = (
    *(np.float32(one).tobytes() for one in (0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 3.4e38, 65504)),
    b"\x00\x7c\x00\xfc", b"\xff\x7b\xff\xfb", b"\x7f\x80\x7f\x80", b"\xff\xff\xff\xff",
)  # fmt: skip
"""Of float32; then pairs of float16 and bytes at their ends."""


def _of_scale(wire: str, num: int, scale: float) -> bytes:
    values = np.linspace(-1, 1, num * WIDTH, dtype=np.float32).reshape(num, WIDTH) * np.float32(scale)
    return tensors.pack_states(values, wire)


STATES = {
    (wire, num): tuple(_of_scale(wire, num, scale) for scale in (1, 0, 1e-38, 1e37))
    for wire in messages.WIRE_TYPES
    for num in (1, 2, 5)
}


def _parse_states(case: Case) -> None:
    data, num, wire = case
    states = tensors.unpack_states(data, num[0], WIDTH, wire.decode())
    assert states.shape == (num[0], WIDTH) and states.dtype == np.float32 and np.isfinite(states).all()


def _fits_states(case: Case) -> bool:
    return len(case[0]) == case[1][0] * tensors.row_bytes(WIDTH, case[2].decode())


def _tokens(mutator: Mutator) -> Case:
    tokens = [mutator.below(VOCABULARY + 1) for _ in range(mutator.below(6))]
    data = numbers.pack_tokens(tokens)
    if tokens and mutator.rng.random() < 0.8:
        tokens[mutator.below(len(tokens))] = mutator.any_of((-1, VOCABULARY, VOCABULARY - 1, -(1 << 31), 1 << 30))
        data = numbers.pack_tokens(tokens)
    elif mutator.rng.random() < 0.3:
        data = mutator.scratched(data)
    return data, bytes([len(tokens)])


def _parse_tokens(case: Case) -> None:
    tokens = numbers.unpack_tokens(case[0], case[1][0], VOCABULARY)
    assert len(tokens) == case[1][0] and all(0 <= token < VOCABULARY for token in tokens)


def _digests(mutator: Mutator) -> Case:
    data = b"".join(line_digests()) * mutator.any_of((1, 2, 8))
    return (data if mutator.rng.random() < 0.1 else mutator.scratched(data),)


def _parse_digests(case: Case) -> None:
    parts = split(case[0])
    assert b"".join(parts) == case[0] and all(len(part) == DIGEST_BYTES for part in parts[:-1])


# --- joins, greetings


def _join(mutator: Mutator) -> Case:
    hosts = ",".join(f"{mutator.any_of(HOSTS)}:{mutator.any_of(PORTS)}" for _ in range(mutator.any_of((1, 1, 2, 4, 5))))
    join = f"dsd://{hosts}/{mutator.any_of(KEYS)}"
    return (join.encode() if mutator.rng.random() < 0.4 else mutator.respelled(join, JOIN_PARTS).encode(),)


def _parse_join(case: Case) -> None:
    contact = joins.parse_join(case[0].decode())
    assert joins.parse_join(joins.format_join(contact)) == contact
    assert contact.addresses and all(map(parse_address, contact.addresses))


def _code(mutator: Mutator) -> Case:
    """Most of them have come as they were made: what is wrong in them their maker has put there."""
    packed = mutator.any_of(PACKED_CODES)
    code = invitations.spell(mutator.scratched(packed) if mutator.rng.random() < 0.8 else packed)
    if mutator.rng.random() < 0.3:
        place = mutator.below(len(code) + 1)
        code = code[:place] + str(mutator.any_of(HARMLESS)) + code[place:]
    return (code.encode() if mutator.rng.random() < 0.93 else mutator.respelled(code, CODE_PARTS).encode(),)


def _parse_code(case: Case) -> None:
    text = case[0].decode()
    invitation = invitations.read_code(text)
    assert invitations.read_code(invitations.write_code(invitation)) == invitation
    assert all(one.addresses and all(map(parse_address, one.addresses)) for one in invitation.members)
    assert all(render.clean(key) == key for key in invitation.swarm_keys), "it would end on a terminal"
    assert [invitations.read_code(part) for part in invitations.split_joins(text)] == [invitation]


def _fits_code(case: Case) -> bool:
    """With a check that is right."""
    code = invitations._bare(case[0].decode())
    return invitations._check(code[:-7]) == code[-7:]


def _hello(mutator: Mutator) -> Case:
    """Bob calls Alice, or somebody says that he is Bob."""
    curve_key = CALLER.curve_public_key if mutator.rng.random() < 0.8 else CALLEE.curve_public_key
    return mutator.packed(_HELLO), curve_key


def _answer(case: Case) -> None:
    head, curve_key = case
    hello = codec.decode([head]).message
    if isinstance(hello, Hello):
        answer = _ALICE.answer(hello, curve_key)
        codec.encode(answer)
        if isinstance(answer, Welcome):
            assert hello.contact.public_key == CALLER.public_key, "an impostor is welcome"
            assert curve_key == CALLER.curve_public_key, "an impostor is welcome"
            assert hello.proof == _HELLO_SAID.proof, "a stranger to the swarm is welcome"


def _welcome(mutator: Mutator) -> Case:
    return (mutator.packed(_WELCOME),)


def _check(case: Case) -> None:
    welcome = codec.decode(case).message
    if isinstance(welcome, Welcome):
        _BOB.check(welcome, _HELLO_SAID, CALLEE.public_key)
        assert welcome.proof == _WELCOME_SAID.proof, "a stranger to the swarm is believed"


_ALICE = Handshake(Contact(CALLEE.public_key, peers.ADDRESSES["alice"]), (SWARM_KEY,))
_BOB = Handshake(Contact(CALLER.public_key, peers.ADDRESSES["bob"]), (SWARM_KEY,))
_PROOF = handshake._proof(SWARM_KEY, b"hello", CALLER.public_key, CALLEE.public_key, peers.NONCE)
_HELLO_SAID = Hello(_BOB.version, _BOB.contact, _BOB.capabilities, peers.NONCE, _PROOF, False)
_WELCOME_SAID = _ALICE.answer(_HELLO_SAID, CALLER.curve_public_key)
assert isinstance(_WELCOME_SAID, Welcome)
_HELLO, _WELCOME = (msgpack.unpackb(codec.encode(one)[0]) for one in (_HELLO_SAID, _WELCOME_SAID))


def _fits_header(case: Case) -> bool:
    return not codec._oversize(case)


def _fits_greeting(case: Case) -> bool:
    return not codec._oversize(case[:1])


def _fits_record(case: Case) -> bool:
    return len(case[0]) <= messages.MAX_RECORD_BYTES


def _fits_join(case: Case) -> bool:
    return len(case[0]) <= 1000


MISBEHAVED = (PeerMisbehaved,)
CODEC = (codec.decode, codec._oversize, codec._strict, codec._convert)
FIGURES = (render.stats_line, slash._figures, slash._plan)
LISTS = (*BODY_TARGETS, records._unpack_list)
PARSERS = (
    Parser("header", _header, _decode, MISBEHAVED, CODEC, _fits_header),
    Parser("open-stages", _open_stages, _parse_stages, MISBEHAVED, BODY_TARGETS, _fits_body),
    Parser("generate-body", _generate, _parse_generate, MISBEHAVED, BODY_TARGETS, _fits_body),
    Parser("statistics", _statistics, _parse_statistics, MISBEHAVED, (*BODY_TARGETS, *FIGURES), _fits_body),
    Parser("contacts", _contacts, _parse_contacts, MISBEHAVED, (*LISTS, records.unpack_contacts), _fits_body),
    Parser("records", _records, _parse_records, MISBEHAVED, (*LISTS, records.unpack_records), _fits_body),
    Parser(
        "record", _record, _parse_record, MISBEHAVED,
        (records.open_record, records.ProviderRecord, parse_address, *BODY_TARGETS), _fits_record,
    ),
    Parser(
        "states", _states, _parse_states, MISBEHAVED,
        (tensors.unpack_states, tensors._unpack_halves, tensors._unpack_bytes), _fits_states,
    ),
    Parser(
        "tokens", _tokens, _parse_tokens, MISBEHAVED, (numbers.unpack_tokens,),
        lambda case: len(case[0]) == 4 * case[1][0],
    ),
    Parser("digests", _digests, _parse_digests, (), (split,), lambda case: len(case[0]) <= codec.MAX_FRAME_BYTES),
    Parser("join", _join, _parse_join, (BadInput,), (joins.parse_join, joins.format_join, parse_address), _fits_join),
    Parser(
        "code", _code, _parse_code, (BadInput,),
        (invitations.read_code, invitations._check_whole, invitations._unpack, invitations._read_address,
         invitations._read_key, invitations._wrong_symbol), _fits_code,
    ),
    Parser("hello", _hello, _answer, MISBEHAVED, (*CODEC, Handshake.answer, Handshake._impostor), _fits_greeting),
    Parser("welcome", _welcome, _check, (PeerMisbehaved, PeerUnavailable), (*CODEC, Handshake.check), _fits_header),
)  # fmt: skip
