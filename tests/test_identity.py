from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import nacl.bindings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdnode.addresses import parse_address
from dsdnode.errors import BadInput
from dsdnode.identity import Identity, curve_public_key, load_or_create, short_id, verify
from dsdnode.wire.joins import format_join, parse_join
from dsdnode.wire.messages import Contact

ALICE = Identity(bytes(range(32)))
BOB = Identity(b"b" * 32)
KEY = ALICE.public_key.hex()


def test_everything_follows_from_the_seed() -> None:
    assert KEY == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"  # RFC 8032 arithmetic
    assert ALICE.peer_id == hashlib.sha256(ALICE.public_key).digest()
    assert short_id(ALICE.peer_id) == ALICE.peer_id.hex()[:12]
    assert curve_public_key(ALICE.public_key) == ALICE.curve_public_key
    assert nacl.bindings.crypto_scalarmult_base(ALICE.curve_secret_key) == ALICE.curve_public_key
    assert ALICE.seed.hex() not in repr(ALICE) and str(ALICE.seed) not in repr(ALICE)


def test_bob_believes_alice_only_for_what_she_signed() -> None:
    message = b"dsdnode test 1\nhello"
    signature = ALICE.sign(message)
    assert verify(ALICE.public_key, message, signature)
    assert not verify(ALICE.public_key, message + b"!", signature)
    assert not verify(BOB.public_key, message, signature)
    assert not verify(ALICE.public_key, message, signature[:-1])
    assert not verify(b"short", message, signature)
    with pytest.raises(ValueError):
        ALICE.sign(b"unlabelled")
    with pytest.raises(ValueError):
        verify(ALICE.public_key, b"dsdnode without an end of label", signature)


@pytest.mark.parametrize("public_key", [b"", bytes(32), b"\xff" * 32, (1).to_bytes(32, "little")])
def test_no_curve_key_from_a_bad_point(public_key: bytes) -> None:
    with pytest.raises(ValueError):
        curve_public_key(public_key)


def test_alice_is_the_same_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "data" / "identity.key"
    first = load_or_create(path)
    assert load_or_create(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.key"]


def test_of_two_first_starts_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identity.key"
    first = load_or_create(path)
    monkeypatch.setattr(Path, "exists", lambda self: False)  # the second one looked before the first had written
    assert load_or_create(path) == first


@pytest.mark.parametrize("content", [b"", b"dsdnode identity 1\n", b"dsdnode identity 1\n" + b"g" * 64, b"x" * 5000])
def test_a_malformed_key_file_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadInput, match="not an identity file"):
        load_or_create(path)
    assert path.read_bytes() == content


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(BadInput, match="chmod 600"):
        load_or_create(path)


def test_a_folder_in_place_of_the_key_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot use the identity file"):
        load_or_create(tmp_path)


def test_a_pipe_in_place_of_the_key_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(BadInput, match="not an identity file"):
        load_or_create(tmp_path / "key")


@pytest.mark.parametrize(
    "hosts",
    [("10.0.0.1:7000",), ("example.org:1", "[::1]:65535"), ("a:1", "b:2", "c-d.e:3", "[2001:db8::1]:4")],
)
def test_a_join_string_and_back(hosts: tuple[str, ...]) -> None:
    text = f"dsd://{','.join(hosts)}/{KEY}"
    contact = parse_join(f"  {text}\n")
    assert contact == Contact(ALICE.public_key, tuple(f"tcp://{host}" for host in hosts))
    assert format_join(contact) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"http://1.2.3.4:5/{KEY}",
        f"dsd://1.2.3.4/{KEY}",
        f"dsd://1.2.3.4:0/{KEY}",
        f"dsd://1.2.3.4:70000/{KEY}",
        f"dsd://::1:5/{KEY}",
        f"dsd://[::zz]:5/{KEY}",
        f"dsd://eth0;1.2.3.4:5/{KEY}",
        f"dsd://1.2.3.4:5,/{KEY}",
        f"dsd://a:1,b:2,c:3,d:4,e:5/{KEY}",
        f"dsd://1.2.3.4:5/{KEY[:-1]}",
        "dsd://1.2.3.4:5",
        "dsd://1.2.3.4:5/" + "00" * 32,
    ],
)
def test_malformed_join_strings_are_refused_in_words(text: str) -> None:
    with pytest.raises(BadInput, match=r"join address|hosts"):
        parse_join(text)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse, error in ((parse_join, BadInput), (parse_address, ValueError)):
        with contextlib.suppress(error):
            parse(text)


def test_only_tcp_addresses_are_read() -> None:
    assert parse_address("tcp://[2001:DB8::1]:7") == ("2001:db8::1", 7)
    for address in (
        "ipc:///tmp/x",
        "inproc://x",
        "10.0.0.1:7",
        "tcp://*:7",
        "tcp://eth0;10.0.0.1:7",
        "tcp://10.0.0.1:7\n",
    ):
        with pytest.raises(ValueError):
            parse_address(address)
