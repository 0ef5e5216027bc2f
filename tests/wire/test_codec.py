from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdnode.errors import PeerMisbehaved
from dsdnode.wire import codec, masks, messages, paths, pieces, replies
from dsdnode.wire.codec import Envelope
from dsdnode.wire.messages import Announce, Close, Contact, FindNode, Hello, Message, Ping, Pong, Refused

HELLO = Hello(1, Contact(b"k" * 32, ("tcp://10.0.0.1:7000",)), ("f16", "f32"), b"n" * 16, b"", True)
GOLDEN: list[tuple[str, Envelope]] = [
    ("9400c2009104", Envelope(Ping())),
    ("942ac3009303aa66756c6c20686f757365c3", Envelope(Refused("full house", True), request_id=42, reply=True)),
    (
        "94cf7fffffffffffffffc2cd07d0920ac420" + "ab" * 32,
        Envelope(FindNode(b"\xab" * 32), request_id=(1 << 63) - 1, deadline_ms=2000),
    ),
    ("9400c200921bc410000102030405060708090a0b0c0d0e0f", Envelope(Close(bytes(range(16))), (b"first", b""))),
    (
        f"9400c20097010192c420{'6b' * 32}91b37463703a2f2f31302e302e302e313a3730303092a3663136a3663332"
        f"c410{'6e' * 16}c400c3",
        Envelope(HELLO),
    ),
]


def encode(envelope: Envelope) -> list[bytes]:
    return codec.encode(envelope.message, envelope.buffers, envelope.request_id, envelope.reply, envelope.deadline_ms)


@pytest.mark.parametrize(("header", "envelope"), GOLDEN)
def test_golden_bytes(header: str, envelope: Envelope) -> None:
    frames = encode(envelope)
    assert frames == [bytes.fromhex(header), *envelope.buffers]
    assert codec.decode(frames) == envelope


def headers(message: Any, request_id: Any = 0, reply: Any = False, deadline_ms: Any = 0) -> list[bytes]:
    return [msgpack.packb([request_id, reply, deadline_ms, message])]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xc1"],
        headers([4]) + [b""] * 9,
        [*headers([4]), bytes(codec.MAX_FRAME_BYTES + 1)],
        headers([4]) + [bytes(codec.MAX_FRAME_BYTES)] * 2 + [b"x"],
        headers([3, "a" * 5000, False]),
        [headers([4])[0] + b"x"],
        headers([99]),
        headers([]),
        headers({}),
        headers([4, 0]),
        headers([10, b"31 bytes" + bytes(23)]),
        headers([10, "a string" + " " * 24]),
        headers([3, "x" * 513, False]),
        headers([3, b"bytes", False]),
        headers([3, "x", 1]),
        headers([4], request_id=-1),
        headers([4], request_id=1 << 63),
        headers([4], request_id=1.0),
        headers([4], reply=0),
        headers([4], deadline_ms=1e3),
        headers([4], deadline_ms=86_400_001),
        [msgpack.packb([0, False, 0, [4], 0])],
        [msgpack.packb([0, False, 0])],
        [b"\xdd\xff\xff\xff\xff" + bytes(100)],  # "a list of four billion"
        [b"\xdf\xff\xff\xff\xff" + bytes(100)],
        [b"\xc6\xff\xff\xff\xff" + bytes(100)],
        [b"\x91" * 4096],
        [b"\x82" * 4096],
        [b"\x81\x90\x00"],
        headers(msgpack.ExtType(5, b"abc")),
        headers(msgpack.Timestamp(0)),
    ],
    ids=lambda frames: frames[0][:12].hex() + f"+{len(frames) - 1}" if frames else "none",
)
def test_what_no_peer_would_send_is_misbehaviour(frames: list[bytes]) -> None:
    with pytest.raises(PeerMisbehaved):
        codec.decode(frames)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=11))
def test_random_frames_only_ever_misbehave(frames: list[bytes]) -> None:
    with contextlib.suppress(PeerMisbehaved):
        codec.decode(frames)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_frames_only_ever_misbehave(data: st.DataObject) -> None:
    header = bytearray(encode(data.draw(st.sampled_from(GOLDEN))[1])[0])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(header) - 1))
        header[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        header = header or bytearray(1)
    try:
        envelope = codec.decode([bytes(header)])
    except PeerMisbehaved:
        return
    assert codec.decode(encode(envelope)) == envelope  # what is let through is something that we could have sent


@settings(deadline=None)
@given(
    st.recursive(st.none() | st.booleans() | st.integers(-1, 1 << 64) | st.floats() | st.text() | st.binary(), st.lists)
)
def test_well_formed_msgpack_of_other_things_only_ever_misbehaves(value: Any) -> None:
    with contextlib.suppress(PeerMisbehaved, OverflowError):
        codec.decode(headers(value))
    with contextlib.suppress(PeerMisbehaved, OverflowError):
        codec.decode(headers([1, value, value, value, value, value, value]))


def test_we_never_send_what_would_be_refused() -> None:
    with pytest.raises(ValueError, match="frames"):
        codec.encode(Ping(), [b""] * 9)
    with pytest.raises(ValueError, match="header"):
        codec.encode(Refused("x" * 5000))
    with pytest.raises(ValueError, match="bytes"):
        codec.encode(Announce(bytes(32)), [bytes(codec.MAX_FRAME_BYTES + 1)])


def test_bodies() -> None:
    contacts = [Contact(b"k" * 32, ("tcp://10.0.0.1:7000",)), Contact(b"l" * 32)]
    body = codec.encode_body(contacts)
    assert codec.decode_body(body, list[Contact]) == contacts
    for bad in (b"", body[:-1], body + b"\x00", codec.encode_body([1]), bytes(codec.MAX_BODY_BYTES + 1)):
        with pytest.raises(PeerMisbehaved):
            codec.decode_body(bad, list[Contact])
    with pytest.raises(ValueError):
        codec.encode_body(bytes(codec.MAX_BODY_BYTES))
    with pytest.raises(PeerMisbehaved, match="at most"):
        codec.decode_body(msgpack.packb(bytes(codec.MAX_BODY_BYTES)), bytes)  # well-formed, and too large
    assert codec.buffer_at([b"a"], 0) == b"a"
    with pytest.raises(PeerMisbehaved):
        codec.buffer_at([b"a"], 1)


def test_a_body_of_nothing_but_empty_lists_is_not_read_to_its_end() -> None:
    """Each is an object of Python's: a mebibyte of them took longer to be looked through for garbage than to arrive."""
    most = codec._MAX_CONTAINERS
    few: list[Any] = [[{}] * 15] * (most // 16 - 1)
    many: list[Any] = [[{}] * 15] * (most // 16 + 1)
    padding = [bytes(most)]
    assert codec.decode_body(codec.encode_body([*few, *padding]), list[Any]) == [*few, *padding]
    with pytest.raises(PeerMisbehaved, match="arrays and maps"):
        codec.decode_body(codec.encode_body([*many, *padding]), list[Any])
    with pytest.raises(PeerMisbehaved, match="arrays and maps"):
        codec.decode_body(codec.encode_body([many, *padding]), messages.JudgeNote)


def test_pong_is_not_ping() -> None:
    pong, ping = Pong(), Ping()
    assert codec.decode(codec.encode(pong)).message == pong
    assert type(codec.decode(codec.encode(ping)).message) is not Pong


def test_no_two_kinds_share_a_tag() -> None:
    named = vars(messages) | vars(replies) | vars(paths) | vars(pieces) | vars(masks)
    kinds = [kind for kind in named.values() if isinstance(kind, type) and issubclass(kind, Message)]
    assert len(codec._KINDS) == len(kinds) - 1 >= 20
