"""Who has us call at once with him: only whom a relay leads to, only the world's addresses, and not too often.

(That two calls meet is shown in tests/nat: on one machine nothing keeps them from each other.)
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from dsdnode.net.holes import POKED_PORT, Hole, guessed
from dsdnode.net.nat import Kind, Nat
from dsdnode.net.paths import Paths
from dsdnode.net.places import to_address
from dsdnode.net.port import LinkKind
from dsdnode.swarm import punching
from dsdnode.swarm.punching import MAX_MET, PUNCHES_BURST, Punching, _Met
from dsdnode.wire.messages import Contact, Refused
from dsdnode.wire.paths import Punch, PunchAt, PunchNow
from tests.net.detours import Detour
from tests.swarm.test_shortcuts import PATIENCE_S, Peer, alice, bob, detour, detours_are_homes, until

__all__ = ["alice", "bob", "detour", "detours_are_homes"]
HOST = "11.7.7.7"


class View:
    """Of a hole that nobody has looked at in truth."""

    def __init__(self) -> None:
        self.num_closed = 0

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def holes(monkeypatch: pytest.MonkeyPatch) -> list[Hole]:
    dug: list[Hole] = []

    async def dig(paths: Paths, v6: bool = False) -> Hole:
        view: Any = View()
        dug.append(Hole(socket.socket(), view, 4000, HOST, (4000,)))
        return dug[-1]

    async def punch(*_: object) -> bool:
        return False  # nobody asks but who is told to

    monkeypatch.setattr(Paths, "dig", dig)
    monkeypatch.setattr(Punching, "punch", punch)
    return dug


async def ask(peer: Peer, other: Peer, host: str = HOST, ports: tuple[int, ...] = (4001,)) -> object:
    return (await peer.rpc.request(other.id, Punch(host, ports, "", False), timeout_s=PATIENCE_S))[0]


async def linked(alice: Peer, bob: Peer) -> None:
    """By way of the relay, and no attempt of their own is under way."""
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    await until(lambda: bool(bob.shortcuts._resting) and not bob.shortcuts._busy)
    assert bob.kind_to(alice) is LinkKind.RELAYED


def test_ports_of_a_router_that_counts_are_the_next_four() -> None:
    assert guessed(Nat(Kind.COUNTING, 2), 5000) == (5002, 5004, 5006, 5008)
    assert guessed(Nat(Kind.COUNTING, 1), 65533) == (65534, 65535)
    assert guessed(Nat(Kind.RANDOM), 5000) == () and guessed(Nat(Kind.SAME), 5000) == guessed(Nat(), 5000) == (5000,)


async def test_alice_is_told_of_a_hole_which_is_closed_when_she_asks_anew(
    alice: Peer, bob: Peer, detour: Detour, holes: list[Hole], monkeypatch: pytest.MonkeyPatch
) -> None:
    await linked(alice, bob)
    answer = await ask(bob, alice)
    assert isinstance(answer, PunchAt) and (answer.host, answer.ports) == (HOST, (4000,))
    await ask(bob, alice)
    assert [hole.view.num_closed for hole in holes] == [1, 0]
    alice.shortcuts._punching._part(bob.id)
    assert holes[1].view.num_closed == 1


async def test_of_two_questions_at_once_one_hole_is_kept(
    alice: Peer, bob: Peer, detour: Detour, holes: list[Hole], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no descriptor is left behind: how a port looks takes seconds to be told."""
    await linked(alice, bob)
    dig, told = Paths.dig, asyncio.Event()

    async def slowly(paths: Paths, v6: bool = False) -> Hole | None:
        hole = await dig(paths, v6)
        await told.wait()
        return hole

    monkeypatch.setattr(Paths, "dig", slowly)
    asking = [asyncio.ensure_future(ask(bob, alice)) for _ in range(2)]
    await until(lambda: len(holes) == 2)
    told.set()
    refused, answer = await asyncio.gather(*asking)
    assert isinstance(refused, Refused) and isinstance(answer, PunchAt)
    assert [hole.view.num_closed for hole in holes] == [1, 0]
    alice.shortcuts._punching._part(bob.id)
    assert holes[1].view.num_closed == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "192.168.1.7", "100.64.0.1", "fe80::7", "fd00:7::7", "::1", "rose.example", "255.255.255.255"]
)
async def test_nobody_has_alice_call_what_is_near_her(
    alice: Peer, bob: Peer, detour: Detour, holes: list[Hole], host: str
) -> None:
    await linked(alice, bob)
    assert isinstance(await ask(bob, alice, host), Refused)
    assert isinstance(await ask(bob, alice, ports=(4001, 80)), Refused)
    assert not holes and not alice.shortcuts._punching._met


async def test_who_has_no_ipv6_says_so_and_is_asked_in_ipv4(
    alice: Peer, bob: Peer, detour: Detour, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def dig(paths: Paths, v6: bool = False) -> Hole | None:
        if v6 and paths is alice.rpc.transport.paths:
            return None
        return Hole(socket.socket(), None, 4000, "2a11:7::7" if v6 else HOST, (4000,))

    async def open_it(paths: Paths, peer: bytes, bulk: bool, hole: Hole, host: str, ports: tuple[int, ...]) -> bool:
        asked.append(host)
        return True

    monkeypatch.setattr(Paths, "dig", dig)
    monkeypatch.setattr(Paths, "can_meet_in_v6", True)
    monkeypatch.setattr(Paths, "open", open_it)
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    await until(lambda: len(asked) == 2)
    assert asked == [HOST, HOST]


async def test_whom_no_relay_leads_to_is_not_called_so(alice: Peer, bob: Peer, holes: list[Hole]) -> None:
    alice.rpc.transport.introduce(Contact(bob.rpc.transport.contact.public_key, bob.rpc.transport.contact.addresses))
    assert isinstance(await ask(alice, bob), Refused) and not holes


async def test_holes_are_dug_a_few_times_and_then_once_a_second_and_for_a_few_peers(
    alice: Peer, bob: Peer, detour: Detour, holes: list[Hole]
) -> None:
    await linked(alice, bob)
    answers = [await ask(bob, alice) for _ in range(PUNCHES_BURST + 3)]
    assert isinstance(answers[0], PunchAt) and isinstance(answers[-1], Refused)
    own = alice.shortcuts._punching
    own._part(bob.id)
    own._punches.charge(bob.id, asyncio.get_running_loop().time(), -PUNCHES_BURST)
    own._met.update({bytes([number]): _Met() for number in range(MAX_MET)})
    assert isinstance(await ask(bob, alice), Refused)
    own._met.clear()


async def test_a_lane_without_the_other_is_given_up(
    alice: Peer, bob: Peer, detour: Detour, holes: list[Hole], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punching, "MEET_S", 0.01)
    await linked(alice, bob)
    await ask(bob, alice)
    await until(lambda: not alice.shortcuts._punching._met)
    assert holes[-1].view.num_closed == 1
    bob.rpc.notify(alice.id, PunchNow())
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    assert alice.kind_to(bob) is LinkKind.RELAYED


@pytest.mark.parametrize("host", [HOST, "2a11:7::7"])
async def test_alice_makes_her_router_let_bob_in_where_nobody_can_tell_his_ports(
    alice: Peer, bob: Peer, detour: Detour, holes: list[Hole], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    poked: list[str] = []
    monkeypatch.setattr("dsdnode.net.paths.poke", lambda host, port: poked.append(to_address(host, port)))
    await linked(alice, bob)
    assert isinstance(await ask(bob, alice, host, ports=()), PunchAt)
    bob.rpc.notify(alice.id, PunchNow())
    await until(lambda: bool(poked))
    assert poked == [to_address(host, POKED_PORT)]
