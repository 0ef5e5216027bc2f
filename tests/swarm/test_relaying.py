"""Bob, whom those far away do not reach, and whom he asks to relay; and when he relays himself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, cast

import pytest

from dsdnode.addresses import parse_address
from dsdnode.dht.ids import node_id
from dsdnode.identity import Identity
from dsdnode.net.places import to_address
from dsdnode.net.port import Sighting
from dsdnode.net.relays import MAX_GIVEN, of_both
from dsdnode.swarm.checks import in_words
from dsdnode.swarm.queries import Tasks
from dsdnode.swarm.reach import Reach
from dsdnode.swarm.relaying import MOST_PAUSE_S, Relaying
from dsdnode.wire.messages import Contact, FindRelay, Message, Refused, RelayAt

LAN, HERE = "tcp://192.168.1.2:29170", "tcp://127.0.0.1:29170"


class Relays:
    """A transport's (net/relays.py), where every relay gives an address at once."""

    def __init__(self) -> None:
        self.is_last_resort, self.port = False, 0
        self.held: dict[bytes, tuple[str, ...]] = {}

    @property
    def given(self) -> tuple[str, ...]:
        return of_both(list(self.held.values()), MAX_GIVEN)

    def reserve(self, relay: Contact, hosts: Sequence[str]) -> None:
        port = parse_address(relay.addresses[0])[1]
        self.held[node_id(relay)] = tuple(to_address(host, port) for host in hosts)

    def forget(self, peer: bytes, address: str) -> None:
        self.held[peer] = tuple(one for one in self.held[peer] if one != address)

    def leave(self, peer: bytes) -> None:
        self.held.pop(peer, None)

    @property
    def num_circuits(self) -> int:
        return 3

    async def serve(self, bytes_per_s: float) -> bool:
        self.port = 40000
        return True

    async def serve_no_more(self) -> None:
        self.port = 0


class Bob:
    """His transport, table and rpc as well. `others`: by their host, what each answers when it is asked for a relay."""

    def __init__(self, *own: str, bytes_per_s: float = 1e6, **others: Message) -> None:
        self.why_no_port = self.seen = ""
        self.outlook, self.here = None, (HERE,)
        self.own, self.relays, self.transport, self.now = own, Relays(), self, 0.0
        self.others = {self._peer(host): (host.strip("_").replace("_", "."), one) for host, one in others.items()}
        self.asked: list[str] = []
        self.uncalled: set[str] = set()
        """Hosts of those who have called him."""
        self.tasks, self.known = Tasks(), Reach(0.0)
        me = cast(Any, self)
        self.relaying = Relaying(me, me, self.tasks, self.known, Random(1), bytes_per_s)

    @property
    def contact(self) -> Contact:
        return Contact(bytes(32), (*self.own, *self.relays.given))

    def _peer(self, host: str) -> Contact:
        where = f"tcp://{host.strip('_').replace('_', '.')}:29170"
        return Contact(Identity(host.encode().ljust(32)).public_key, (where,))

    def contacts(self) -> Iterable[Contact]:
        return self.others

    def can(self, peer: bytes, capability: str) -> bool:
        return True

    def contact_of(self, peer: bytes) -> Contact:
        return next(one for one in self.others if node_id(one) == peer)

    def sighting(self, peer: bytes) -> Sighting:
        host = self.others[self.contact_of(peer)][0]
        return Sighting(() if host in self.uncalled else (f"tcp://{host}:29170",))

    async def reach(self, peer: bytes, address: str) -> bool:
        self.uncalled.discard(self.others[self.contact_of(peer)][0])
        return True

    def on_request(self, kind: type[Message], handler: Any) -> None:
        self.handler = handler

    async def request(self, peer: bytes, message: Message, timeout_s: float) -> tuple[Message, list[bytes]]:
        host, answer = self.others[self.contact_of(peer)]
        self.asked.append(host)
        return answer, []

    def hears(self, voice: str, *reached: str, far: bool = True) -> None:
        given = self.relays.given
        self.known.discount(given)
        self.known.heard(self.now, voice, self.contact.addresses, reached, (*reached, *given), far)

    async def ticks(self, num: int = 1, step_s: float = 0.25) -> None:
        for _ in range(num):
            self.now += step_s
            self.relaying.tick(self.now)
            for _ in range(3):
                await asyncio.sleep(0)

    @property
    def says(self) -> str:
        return in_words(self.known, cast(Any, self))

    @property
    def hosts(self) -> list[str]:
        return [address.split("/")[2] for address in self.relays.given]


async def test_bob_asks_for_two_relays_of_different_networks_and_no_more() -> None:
    yes = RelayAt(41000)
    bob = Bob(LAN, _11_1_1_1=yes, _11_1_1_2=yes, _11_2_2_2=yes)
    await bob.ticks(4)
    assert bob.asked == [], "nobody has said a word of him"
    bob.hears("carol's")
    await bob.ticks(8)
    assert bob.hosts == ["11.1.1.1:41000", "11.2.2.2:41000"] and bob.asked == ["11.1.1.1", "11.2.2.2"]


async def test_where_there_is_one_network_alone_both_are_of_it() -> None:
    bob = Bob(LAN, _11_1_1_1=RelayAt(41000), _11_1_1_2=RelayAt(42000))
    bob.hears("carol's")
    await bob.ticks(4)
    assert bob.hosts == ["11.1.1.1:41000", "11.1.1.2:42000"]


async def test_bob_does_not_ask_at_a_name_which_may_lead_to_himself_by_then() -> None:
    bob = Bob(LAN, mallory_example=RelayAt(41000, ("11.3.3.3",)), _11_1_1_1=RelayAt(42000))
    bob.hears("carol's")
    await bob.ticks(8)
    assert bob.hosts == ["11.1.1.1:42000"] and bob.asked == ["11.1.1.1"]


async def test_who_has_called_bob_is_called_to_see_whether_he_can_ask_it() -> None:
    bob = Bob(LAN, _11_1_1_1=RelayAt(41000), _11_2_2_2=RelayAt(42000))
    bob.uncalled = {"11.1.1.1", "11.2.2.2"}
    bob.hears("carol's")
    await bob.ticks(8)
    assert bob.hosts == ["11.1.1.1:41000", "11.2.2.2:42000"] and not bob.uncalled


async def test_who_is_no_relay_is_asked_again_and_ever_more_seldom() -> None:
    bob = Bob(LAN, _11_1_1_1=Refused("no", retry=True))
    bob.hears("carol's")
    await bob.ticks(4 * 60)
    assert 5 <= len(bob.asked) <= 8
    assert bob.relaying.why_none.endswith(": no")
    await bob.ticks(20, MOST_PAUSE_S / 4)
    assert len(bob.asked) <= 16
    bob.others[bob._peer("_11_1_1_1")] = "11.1.1.1", RelayAt(41000)
    await bob.ticks(5, MOST_PAUSE_S / 4)
    assert bob.hosts == ["11.1.1.1:41000"] and not bob.relaying.why_none


async def test_where_nobody_reaches_bob_by_way_of_a_relay_he_asks_the_next_one() -> None:
    bob = Bob(LAN, _11_1_1_1=RelayAt(41000), _11_2_2_2=RelayAt(42000), _11_3_3_3=RelayAt(43000))
    bob.hears("carol's")
    await bob.ticks(4)
    bob.hears("carol's", "tcp://11.2.2.2:42000")
    await bob.ticks(2)
    assert bob.hosts == ["11.2.2.2:42000", "11.3.3.3:43000"]
    bob.relays.leave(next(iter(bob.relays.held)))  # its reservation has ended
    await bob.ticks(8)
    assert "11.3.3.3:43000" in bob.hosts and len(bob.hosts) == 2


async def test_bob_gives_his_relays_back_once_he_is_reached_without() -> None:
    bob = Bob(LAN, HERE, _11_1_1_1=RelayAt(41000))
    bob.hears("carol's")
    await bob.ticks(2)
    bob.hears("carol's", "tcp://11.1.1.1:41000")
    await bob.ticks(2)
    assert bob.hosts == ["11.1.1.1:41000"]
    bob.hears("carol's", HERE, "tcp://11.1.1.1:41000")
    await bob.ticks(2)
    assert bob.hosts == []


async def test_bob_keeps_his_relays_when_he_moves_until_he_is_reached_without() -> None:
    bob = Bob(LAN, _11_1_1_1=RelayAt(41000))
    bob.hears("carol's")
    await bob.ticks(2)
    bob.hears("carol's", "tcp://11.1.1.1:41000")
    bob.own = ("tcp://10.0.0.2:29170",)
    bob.known.moved(bob.now, bob.relays.given)
    await bob.ticks(20)
    assert bob.hosts == ["11.1.1.1:41000"] and bob.asked == ["11.1.1.1"]
    bob.hears("carol's", *bob.own)
    await bob.ticks(2)
    assert bob.hosts == []


async def test_a_relay_of_bobs_own_house_is_of_no_use_to_those_far_away() -> None:
    bob = Bob(LAN, _192_168_1_7=RelayAt(41000))
    bob.hears("carol's")
    await bob.ticks(2)
    assert bob.asked == []
    bob = Bob(LAN, _192_168_1_7=RelayAt(41000))
    bob.hears("alice's, next door", far=False)
    bob.known.heard(0.0, "alice's, next door", (LAN,), (), (LAN,))
    await bob.ticks(2)
    assert bob.hosts == ["192.168.1.7:41000"], "where there is nobody else"


async def test_nor_is_one_behind_the_same_router_with_a_public_address() -> None:
    own = (LAN, "tcp://11.1.1.1:29170")
    bob = Bob(*own, _11_1_1_2=RelayAt(41000), _11_2_2_2=RelayAt(42000))
    bob.known.heard(0.0, "carol's", own, (), own[1:], far=True)
    await bob.ticks(4)
    assert bob.hosts == ["11.2.2.2:42000"]


async def test_a_port_of_a_machine_s_services_is_no_relay_s() -> None:
    bob = Bob(LAN, _11_1_1_1=RelayAt(22))
    bob.hears("carol's")
    await bob.ticks(2)
    assert bob.asked == ["11.1.1.1"] and bob.hosts == []


BOTH = RelayAt(41000, ("11.1.1.1", "fd00::1", "a.example", "2a11:1::1"))
"""Of a relay that is reached in both families, by its own word."""


async def test_bob_is_called_by_those_who_have_ipv6_alone_though_he_has_none() -> None:
    """He is reached by IPv4 at an address of his own; carol's relay, which has no IPv6, is of no use to him."""
    own = "tcp://11.9.9.9:29170"
    bob = Bob(own, _11_2_2_2=RelayAt(42000, ("11.2.2.2",)), _11_1_1_1=BOTH)
    bob.hears("carol's", own)
    await bob.ticks(8)
    assert bob.asked == ["11.2.2.2", "11.1.1.1"] and bob.hosts == ["[2a11:1::1]:41000"]
    bob.others[bob._peer("_11_3_3_3")] = "11.3.3.3", BOTH
    await bob.ticks(8)
    assert len(bob.asked) < 6 and bob.hosts == ["[2a11:1::1]:41000"], "one is enough"


async def test_of_the_relay_s_addresses_bob_keeps_those_of_the_family_in_which_he_is_cut_off() -> None:
    bob = Bob(LAN, HERE, _11_1_1_1=BOTH, _11_2_2_2=RelayAt(42000, ("2a11:2::2",)))
    bob.hears("carol's")
    await bob.ticks(4)
    assert sorted(bob.hosts) == ["11.1.1.1:41000", "[2a11:2::2]:42000"], "of both relays, and of both families"
    bob.hears("carol's", HERE, *bob.relays.given)
    await bob.ticks(2)
    assert bob.hosts == ["[2a11:2::2]:42000"]
    bob = Bob(LAN, HERE, _11_1_1_1=BOTH)
    bob.hears("carol's")
    await bob.ticks(2)
    bob.hears("carol's", HERE, *bob.relays.given)
    await bob.ticks(2)
    assert bob.hosts == ["[2a11:1::1]:41000"]


async def test_of_mallory_s_relay_bob_tells_no_address_that_has_a_zone() -> None:
    """It means something on one machine alone, if at all, and nobody can call there."""
    bob = Bob(LAN, _11_1_1_1=RelayAt(41000, ("2a11:1::1%x", "2a11:1::2")))
    bob.hears("carol's")
    await bob.ticks(2)
    assert bob.hosts == ["11.1.1.1:41000", "[2a11:1::2]:41000"]


async def test_an_address_of_a_relay_that_is_called_in_vain_makes_room_for_its_other_one() -> None:
    bob = Bob(LAN, _11_1_1_1=BOTH)
    bob.hears("carol's")
    await bob.ticks(2)
    assert bob.hosts == ["11.1.1.1:41000", "[2a11:1::1]:41000"]
    bob.hears("carol's", "tcp://11.1.1.1:41000")
    await bob.ticks(2)
    assert bob.hosts == ["11.1.1.1:41000"]


@pytest.mark.parametrize(
    ("own", "bytes_per_s", "serves"),
    [
        (HERE, 1e6, True),
        (HERE, 0.0, False),
        ("tcp://192.0.2.1:29170", 1e6, False),
        ("tcp://a.example:1024", 1e6, False),
    ],
    ids=("own address", "no relay", "another machine's", "a name"),
)
async def test_bob_relays_while_others_reach_him_at_his_own_address(own: str, bytes_per_s: float, serves: bool) -> None:
    bob = Bob(own, bytes_per_s=bytes_per_s)
    await bob.ticks()
    assert not bob.relays.port
    bob.hears("carol's", own)
    await bob.ticks(2)
    answer, _ = await bob.handler(bytes(32), FindRelay(), [])
    yes = RelayAt(40000, (parse_address(own)[0],))
    assert answer == (yes if serves else Refused("this peer is no relay now", retry=bytes_per_s > 0))
    bob.known.moved(bob.now)
    await bob.ticks(2)
    assert not bob.relays.port


async def test_bob_tells_of_his_other_family_unless_it_is_known_to_lead_nowhere() -> None:
    """Who has it may not have come yet, and a relay is asked once."""
    other = "tcp://[::1]:29170"
    bob = Bob(other, HERE)
    bob.hears("carol's", HERE)
    await bob.ticks(2)
    assert await bob.handler(bytes(32), FindRelay(), []) == (RelayAt(40000, ("127.0.0.1", "::1")), ())
    bob.known.heard(0.0, "dave's", bob.own, (), (other,), far=True)
    assert await bob.handler(bytes(32), FindRelay(), []) == (RelayAt(40000, ("127.0.0.1",)), ())


async def test_whom_his_neighbours_alone_reach_does_not_relay_unless_there_is_nobody_else() -> None:
    bob = Bob(HERE)
    bob.hears("alice's, next door", HERE, far=False)
    await bob.ticks(2)
    assert bob.relays.port
    bob.hears("carol's")
    await bob.ticks(2)
    assert not bob.relays.port


async def test_bob_does_not_relay_at_an_address_that_a_relay_has_given_him() -> None:
    bob = Bob(LAN, HERE)
    bob.relays.held[b"rose"] = (HERE,)
    bob.hears("carol's", HERE)
    await bob.ticks(2)
    assert not bob.relays.port


# --- in words


async def test_what_bob_is_told_of_all_this() -> None:
    bob = Bob(LAN, _11_1_1_1=RelayAt(41000))
    assert bob.says == "nobody has said yet whether others reach this node: no other peer was there to try"
    bob.hears("alice's, next door", LAN, far=False)
    assert bob.says == f"others reach this node: {LAN}"
    bob.hears("carol's")
    assert bob.says == f"others reach this node: {LAN}, in this house alone; no member that relays is found yet"
    await bob.ticks(2)
    bob.hears("carol's", "tcp://11.1.1.1:41000")
    relay = node_id(next(iter(bob.others))).hex()[:12]
    assert bob.says == f"others reach this node: {LAN}, tcp://11.1.1.1:41000 by way of the relay {relay}"


async def test_who_is_reached_as_bob_s_user_has_said_needs_no_relay_for_those_who_are_not() -> None:
    """Far away nobody gets to his VPN; the relay is of use only once nobody at all does."""
    bob = Bob(LAN, _11_1_1_1=RelayAt(41000))
    bob.relays.is_last_resort = True
    bob.hears("alice's, next door", LAN, far=False)
    bob.hears("carol's")
    await bob.ticks(4)
    assert bob.asked == [] and bob.says == f"others reach this node: {LAN}, in this house alone"
    bob.known.moved(bob.now)
    bob.hears("carol's")
    assert bob.says == (
        "others do not reach this node: no member that relays is found yet, and nobody answered them at "
        f"{LAN}, which --advertise says. Is that this machine, or a router that passes the port on to TCP port 29170 "
        "of this machine? If not, leave --advertise out"
    )
    await bob.ticks(2)
    assert bob.hosts == ["11.1.1.1:41000"]
    bob.hears("carol's", "tcp://11.1.1.1:41000")
    assert bob.says.endswith(f", but not where --advertise says: {LAN}")
    bob.hears("alice's, next door", LAN, far=False)
    await bob.ticks(2)
    assert bob.hosts == []


async def test_what_one_is_told_whom_nobody_reaches_and_one_who_relays() -> None:
    bob = Bob(LAN)
    bob.hears("carol's")
    assert bob.says.startswith("others do not reach this node: no member that relays is found yet, and nobody answered")
    carol = Bob(HERE)
    carol.hears("bob's", HERE)
    await carol.ticks(2)
    assert carol.says == f"others reach this node: {HERE}; it relays for those that are not reached (circuits now: 3)"


# --- who is reached by way of one, for people
