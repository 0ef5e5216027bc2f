"""Alice's laptop has several addresses, gets another, loses one: what she tells, and what becomes of her links."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dsdnode.identity import Identity
from dsdnode.net.interfaces import Own
from dsdnode.net.places import advertised, is_gone, ranked, why_not_told
from dsdnode.net.rpc import Rpc
from dsdnode.wire.replies import Cancel

Start = Callable[..., Awaitable[Rpc]]
HOME, GLOBAL, UNIQUE = "192.168.1.2", "2a02:8109::2", "fd00::2"
LAPTOP = [
    Own("docker0", "172.17.0.1", "172.17.0.0/16"),
    Own("lan0", "169.254.0.2", "169.254.0.0/16"),
    Own("wlan0", UNIQUE, "fd00::/64"),
    Own("wlan0", HOME, "192.168.1.0/24"),
    Own("wlan0", GLOBAL, "2a02:8109::/64"),
    Own("tun0", "10.8.0.2", "10.8.0.0/24"),
]


def test_what_a_laptop_tells_is_where_it_lives_first_and_nothing_of_its_own() -> None:
    assert ranked(LAPTOP, {HOME, GLOBAL}, v6=True) == (HOME, GLOBAL, "10.8.0.2", UNIQUE)
    assert ranked(LAPTOP, {HOME, GLOBAL}, v6=False) == (HOME, "10.8.0.2")


def test_without_a_way_to_the_world_it_tells_what_it_has() -> None:
    assert ranked(LAPTOP, set(), v6=False) == (HOME, "10.8.0.2")
    assert ranked(LAPTOP[1:2], set(), v6=True) == ()


def test_a_bridge_to_containers_is_told_where_there_is_nothing_else() -> None:
    assert ranked(LAPTOP[:2], set(), v6=False) == ("172.17.0.1",)


def test_of_each_address_that_others_are_not_told_it_is_said_why() -> None:
    told = [f"tcp://{HOME}:29170", f"tcp://[{GLOBAL}]:29170"]
    why = dict(why_not_told(LAPTOP, told, "::"))
    assert list(why) == ["172.17.0.1", "169.254.0.2", UNIQUE, "10.8.0.2"]
    assert "containers" in why["172.17.0.1"] and "one cable" in why["169.254.0.2"] and "better" in why["10.8.0.2"]
    assert "IPv6 is not listened for" in dict(why_not_told(LAPTOP, told[:1], "0.0.0.0"))[GLOBAL]
    assert set(dict(why_not_told(LAPTOP, told, "")).values()) == {"other addresses were asked for"}


def test_where_one_has_said_where_to_be_reached_nothing_else_is_told() -> None:
    assert advertised("tcp://[::]:0", ["tcp://example.org:7000"], 7000) == ("tcp://example.org:7000",)
    assert advertised("tcp://127.0.0.1:0", (), 7000) == ("tcp://127.0.0.1:7000",)


def test_whatever_others_give_her_one_address_of_her_own_is_told() -> None:
    given = [f"tcp://11.1.1.{number}:7000" for number in range(1, 5)]
    own = "tcp://192.168.1.2:7000"
    assert advertised("tcp://192.168.1.2:0", (), 7000, given) == (own, *given[:3])
    assert advertised("tcp://192.168.1.2:0", (), 7000, [own, given[0], given[0]]) == (own, given[0])


def test_connections_from_this_machine_to_itself_stay() -> None:
    assert is_gone(HOME, {GLOBAL}) and is_gone(GLOBAL, {HOME})
    assert not any(is_gone(host, set()) for host in ("127.0.0.1", "::1", "fe80::2", ""))


async def test_bob_is_answered_where_he_says_that_he_lives_now(start: Start) -> None:
    """His old connection stands, for all that alice can see: he was carried away without a word."""
    alice, before = await start(b"a"), await start(b"b")
    bob = Identity(b"b" * 32).peer_id
    alice.transport.introduce(before.transport.contact)
    await alice.ping(bob, timeout_s=5)
    now = await start(b"b")
    heard: dict[str, asyncio.Event] = {"before": asyncio.Event(), "now": asyncio.Event()}
    before.on_notice(Cancel, lambda *_: heard["before"].set())
    now.on_notice(Cancel, lambda *_: heard["now"].set())
    now.transport.introduce(alice.transport.contact)
    await now.ping(Identity(b"a" * 32).peer_id, timeout_s=5)
    alice.notify(bob, Cancel(bytes(16)))
    await asyncio.wait_for(heard["now"].wait(), 5)
    assert not heard["before"].is_set()


# Alice and bob share a machine with a network of its own, whose addresses come and go.
MOVING = """
import asyncio, subprocess
from dsdnode.addresses import parse_address
from dsdnode.identity import Identity
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.messages import Contact

def ip(words):
    subprocess.run(["ip", *words.split()], check=True)

def hosts(rpc):
    return [parse_address(address)[0] for address in rpc.transport.contact.addresses]

async def main():
    ip("link set lo up")
    ip("link add home type veth peer name cable")
    ip("link set cable up")
    ip("link set home up")
    alice = Rpc(await ZmqTransport.open(Identity(b"a" * 32), listen="tcp://0.0.0.0:0"))
    bob = Rpc(await ZmqTransport.open(Identity(b"b" * 32), listen="tcp://127.0.0.1:0"))
    moved, lost = asyncio.Queue(), asyncio.Queue()
    alice.transport.on_moved(lambda: moved.put_nowait(hosts(alice)))
    bob.transport.on_peer_lost(lambda peer, why, at_s: lost.put_nowait(peer))
    alice.start(), bob.start()
    print("begins", hosts(alice))
    ip("addr add 192.168.1.2/24 dev home")
    print("gets", await asyncio.wait_for(moved.get(), 5))
    ip("addr add 10.0.0.2/24 dev home")
    print("gets", sorted(await asyncio.wait_for(moved.get(), 5)))
    port = parse_address(alice.transport.contact.addresses[0])[1]
    bob.transport.introduce(Contact(alice.transport.contact.public_key, ("tcp://192.168.1.2:%d" % port,)))
    await bob.ping(Identity(b"a" * 32).peer_id, timeout_s=5)
    ip("addr del 192.168.1.2/24 dev home")
    print("keeps", await asyncio.wait_for(moved.get(), 5))
    print("bob lost her", (await asyncio.wait_for(lost.get(), 5)) == Identity(b"a" * 32).peer_id)
    await alice.close(), await bob.close()

asyncio.run(main())
"""


def why_not() -> str:
    if sys.platform != "linux" or shutil.which("unshare") is None or shutil.which("ip") is None:
        return "there is no `unshare` or `ip` here"
    if os.geteuid() != 0:
        return "only root may make a network of its own"
    made = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True)
    return f"no networks of one's own here ({made.stderr.strip()})" if made.returncode else ""


def test_alice_moves() -> None:
    if why := why_not():
        pytest.skip(why)
    asked = ["unshare", "-n", sys.executable, "-c", MOVING]
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    told = [line for line in ended.stdout.splitlines() if line.startswith(("begins", "gets", "keeps", "bob"))]
    assert told == [
        "begins ['127.0.0.1']",
        "gets ['192.168.1.2']",
        "gets ['10.0.0.2', '192.168.1.2']",
        "keeps ['10.0.0.2']",
        "bob lost her True",
    ], ended.stderr
