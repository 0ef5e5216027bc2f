"""Addresses are called side by side: a laptop names all that it has, and most of them lead nowhere from elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net import link
from dsdnode.net.port import ATTEMPT_TIMEOUT_S
from dsdnode.net.resolver import Resolver
from dsdnode.wire.messages import Contact
from tests.net.conftest import Start

BOB = Identity(b"b" * 32)


@contextlib.asynccontextmanager
async def silent(num: int) -> AsyncIterator[tuple[list[str], list[int]]]:
    """Addresses where connections are taken and nothing is said; and of which calls came, in their order."""
    called: list[int] = []
    writers: list[asyncio.StreamWriter] = []

    async def listen(number: int) -> asyncio.Server:
        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            called.append(number)
            writers.append(writer)

        return await asyncio.start_server(accept, "127.0.0.1", 0)

    servers = [await listen(number) for number in range(num)]
    try:
        yield [f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers], called
    finally:
        for writer in writers:
            writer.close()
        for server in servers:
            server.close()


async def test_alice_finds_bob_behind_three_addresses_that_say_nothing(start: Start) -> None:
    alice, bob = await start(b"a", listen=None), await start(b"b")
    async with silent(3) as (addresses, called):
        alice.transport.introduce(Contact(BOB.public_key, (*addresses, *bob.transport.contact.addresses)))
        await alice.ping(BOB.peer_id, timeout_s=ATTEMPT_TIMEOUT_S)  # in which one of them alone would be given up
        assert called == [0, 1, 2]
        await alice.ping(BOB.peer_id, timeout_s=5)


async def test_alice_calls_the_next_address_only_where_the_first_is_slow(start: Start) -> None:
    alice, bob = await start(b"a", listen=None), await start(b"b")
    async with silent(1) as (addresses, called):
        alice.transport.introduce(Contact(BOB.public_key, (*bob.transport.contact.addresses, *addresses)))
        await alice.ping(BOB.peer_id, timeout_s=5)
        assert called == []


async def test_bob_has_one_link_with_alice_though_he_answers_at_four_addresses(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "STAGGER_S", 0.0)  # all four at once
    alice, bob = await start(b"a", listen=None), await start(b"b", listen="tcp://0.0.0.0:0")
    port = bob.transport.contact.addresses[0].rpartition(":")[2]
    addresses = tuple(f"tcp://127.0.0.{number}:{port}" for number in range(1, 5))
    alice.transport.introduce(Contact(BOB.public_key, addresses))
    await asyncio.gather(*(alice.ping(BOB.peer_id, timeout_s=5) for _ in range(8)))
    assert len(list(bob.transport._links.book.get(Identity(b"a" * 32).peer_id).links())) == 1  # type: ignore[attr-defined]


async def test_alice_is_told_of_each_address_why_it_did_not_do(start: Start) -> None:
    alice, carol = await start(b"a", listen=None), await start(b"c")
    async with silent(1) as (addresses, _):
        nobody = "tcp://127.0.0.1:9"
        alice.transport.introduce(Contact(BOB.public_key, (*addresses, nobody, *carol.transport.contact.addresses)))
        with pytest.raises(PeerUnavailable) as error:
            await alice.ping(BOB.peer_id, timeout_s=4 * ATTEMPT_TIMEOUT_S)
    told = str(error.value)
    assert f"listens at {addresses[0]} takes the connection and says nothing" in told
    assert f"nobody listens at {nobody}" in told
    assert f"{carol.transport.contact.addresses[0]} hung up: it does not have the key" in told


@pytest.mark.parametrize("is_elsewhere_too", [True, False])
async def test_a_name_that_leads_to_one_cable_as_well(
    start: Start, monkeypatch: pytest.MonkeyPatch, is_elsewhere_too: bool
) -> None:
    """So a laptop that says its own name in the house (mDNS) is found by many a system."""
    alice, bob = await start(b"a", listen=None), await start(b"b")

    async def hosts(_: Resolver, name: str, by_user: bool) -> list[str]:
        return ["fe80::1%eth0", *["127.0.0.1"] * is_elsewhere_too]

    monkeypatch.setattr(Resolver, "hosts", hosts)
    port = bob.transport.contact.addresses[0].rpartition(":")[2]
    alice.transport.introduce(Contact(BOB.public_key, (f"tcp://laptop.local:{port}",)))
    if is_elsewhere_too:
        await alice.ping(BOB.peer_id, timeout_s=1)
    else:
        with pytest.raises(PeerUnavailable, match="leads to an address that nobody calls: it has a zone"):
            await alice.ping(BOB.peer_id, timeout_s=1)
