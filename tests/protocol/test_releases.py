"""Dave has not updated yet: what his peer says is read here, and what is said here his reads, or they part in words."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from dsdnode.errors import PeerUnavailable
from dsdnode.net.handshake import Handshake
from dsdnode.wire import records
from dsdnode.wire.codec import decode, encode
from dsdnode.wire.messages import PROTOCOL_VERSION, Hello, Refused, Welcome
from tests.protocol import peers, releases

RELEASES = releases.kept()
OTHER = [one for one in RELEASES if one["protocol"] != PROTOCOL_VERSION]
named = pytest.mark.parametrize("release", RELEASES, ids=lambda release: str(release["release"]))
other = pytest.mark.parametrize("release", OTHER, ids=lambda release: str(release["release"]))


def shape(value: Any) -> Any:
    """Which kinds of values stand where; lists of one kind may have any length."""
    if isinstance(value, list):
        kinds = [shape(item) for item in value]
        return [kinds[0]] if kinds and all(kind == kinds[0] for kind in kinds) else kinds
    return type(value)


def said(release: dict[str, Any], kind: str) -> list[bytes]:
    return [bytes.fromhex(one["header"]) for one in release["headers"] if one["message"] == kind]


@named
def test_this_version_and_every_release_of_its_protocol_read_each_other(release: dict[str, Any]) -> None:
    """And of any other release the greeting, so that either can say no."""
    assert list(releases.breaks(release)) == []


@other
def test_dave_calls_bob_who_says_in_words_why_not(release: dict[str, Any]) -> None:
    [hello] = [decode([one]).message for one in said(release, "Hello")[-1:]]
    assert isinstance(hello, Hello)
    dave = peers.identity_of("alice")
    assert hello.contact.public_key == dave.public_key
    answer = Handshake(peers.contact_of("bob")).answer(hello, dave.curve_public_key)
    words = f"protocol version {release['protocol']} meets version {PROTOCOL_VERSION}: update the older one"
    assert answer == Refused(words)
    readable = [shape(msgpack.unpackb(one)) for one in said(release, "Refused")]
    assert shape(msgpack.unpackb(encode(Refused(words))[0])) in readable


@other
def test_bob_calls_dave_and_says_in_words_why_not(release: dict[str, Any]) -> None:
    """Dave's peer can read who calls, and in which version; what it answers, yes or no, bob's takes for a no."""
    bob = Handshake(peers.contact_of("bob"))
    hello = bob.hello(peers.identity_of("alice").public_key, bulk=True)
    readable = [shape(msgpack.unpackb(one)) for one in said(release, "Hello")]
    assert shape(msgpack.unpackb(encode(hello)[0])) in readable and hello.version == PROTOCOL_VERSION
    for welcome in (decode([one]).message for one in said(release, "Welcome")):
        assert isinstance(welcome, Welcome)
        with pytest.raises(PeerUnavailable, match="update the older one"):
            bob.check(welcome, hello, peers.identity_of("alice").public_key)


def test_a_release_of_today_is_read_as_it_is_kept_and_what_would_break_it_is_named() -> None:
    """Erin changes the code: a message gets a field more, contacts lose one, a record's layers are told otherwise."""
    today = releases.snapshot("today")
    assert list(releases.breaks(today)) == []
    park = next(one for one in today["headers"] if one["message"] == "Park")
    header = msgpack.unpackb(bytes.fromhex(park["header"]))
    park["header"] = msgpack.packb([*header[:3], header[3][:-1]]).hex()
    today["contacts"]["body"] = msgpack.packb([[bytes(32), ["tcp://192.0.2.7:29170"], 1]]).hex()
    record = today["records"]["cases"][0]
    values = msgpack.unpackb(msgpack.unpackb(bytes.fromhex(record["signed"]))[1])
    record["signed"] = signed([*values[:6], "0", *values[7:]])
    assert list(releases.breaks(today)) == ["Park", "the record of a shard", "contacts"]
    record["signed"] = signed(values[:-1])
    assert list(releases.breaks(today)) == ["Park", "contacts"], "a record may grow"


def signed(values: list[Any]) -> str:
    """By alice."""
    payload = msgpack.packb(values)
    signature = peers.identity_of("alice").sign(records._LABEL + payload)
    return bytes(msgpack.packb([1, payload, signature])).hex()
