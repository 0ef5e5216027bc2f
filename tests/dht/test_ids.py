from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdnode.dht.ids import (
    bucket_index,
    distance,
    ip_groups,
    is_dialable,
    model_key,
    random_id_in_bucket,
    tokenizer_key,
)
from dsdnode.wire.messages import Contact

IDS = st.binary(min_size=32, max_size=32)


@given(IDS, IDS, IDS)
def test_the_distance_is_a_metric(a: bytes, b: bytes, c: bytes) -> None:
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)


@given(IDS, st.integers(0, 255), st.integers())
def test_refreshing_a_bucket_looks_into_that_bucket(own: bytes, index: int, seed: int) -> None:
    assert bucket_index(own, random_id_in_bucket(own, index, random.Random(seed))) == index


def test_one_key_for_each_purpose() -> None:
    assert model_key("ab" * 32) != tokenizer_key("ab" * 32)
    assert len(model_key("ab" * 32)) == 32


@pytest.mark.parametrize(
    ("addresses", "groups"),
    [
        (("tcp://8.8.8.8:1", "tcp://8.8.8.9:2"), ("8.8.8.0/24",)),
        (("tcp://8.8.9.8:1", "tcp://8.8.8.9:2"), ("8.8.9.0/24", "8.8.8.0/24")),
        (("tcp://[2606:4700:0:1ff::1]:1", "tcp://[2606:4700:0:100::2]:1"), ("2606:4700:0:100::/56",)),
        (("tcp://[::ffff:8.8.8.8]:1",), ("8.8.8.0/24",)),
        (("tcp://127.0.0.1:1",), ()),
        (("tcp://[::1]:1",), ()),
        (("tcp://10.1.2.3:1", "tcp://192.168.1.2:1", "tcp://172.16.0.1:1"), ()),
        (("tcp://100.64.1.1:1", "tcp://169.254.1.1:1", "tcp://[fe80::1]:1"), ()),
        (("tcp://a.Example.org:1", "tcp://b.example.org:1"), ("example.org",)),
        (("tcp://laptop:1", "tcp://laptop.local:1", "tcp://localhost:1"), ()),
    ],
)
def test_who_shares_a_network(addresses: tuple[str, ...], groups: tuple[str, ...]) -> None:
    assert ip_groups(addresses) == groups


@pytest.mark.parametrize(
    "address", ["", "8.8.8.8:1", "tcp://8.8.8.8", "ipc:///tmp/x", "tcp://8.8.8.8:0", "tcp://[x]:1"]
)
def test_what_cannot_be_dialled(address: str) -> None:
    assert not is_dialable(Contact(bytes(32), ("tcp://8.8.8.8:1", address)))
    assert not is_dialable(Contact(bytes(32)))
