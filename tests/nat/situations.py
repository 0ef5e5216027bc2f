"""Where people's machines stand: networks of a lab, and who of a swarm lives where. A function a situation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.nat.lab import Host, Lab
from tests.nat.namespaces import ip

FIRST = "boot"
"""Whom all others join; it offers its place in the DHT and what it can relay."""
JOIN = "{join}"
"""In words: how it is joined."""
WORDS = {
    FIRST: ("--role", "bootstrap"),
    "drafter": ("--role", "drafter"),
    "shard-0-4": ("--role", "shard", "--layers", "0:4"),
    "shard-4-8": ("--role", "shard", "--layers", "4:8"),
}
PORT = 29170


@dataclass
class Layout:
    """`more`: what members are told beside their role. `names`: of hosts, as every host's /etc/hosts has them. `join`:
    how others are told of the first one ("": by its own word; None: they are not). `strangers`: daemons of a swarm of
    their own."""

    members: dict[str, Host]
    clients: dict[str, Host]
    more: dict[str, tuple[str, ...]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    join: str | None = ""
    strangers: dict[str, Host] = field(default_factory=dict)


def everybody(town: Lab, place: Callable[[], Host], first: Host | None = None) -> Layout:
    """The drafter, both shards and a client in a home each; the one that is joined, and a client, have public ones."""
    first = first or town.home("public")
    members = {FIRST: first} | {name: place() for name in ("drafter", "shard-0-4", "shard-4-8")}
    return Layout(members, {"there": place(), "public": town.home("public")})


def two_homes(town: Lab) -> Layout:
    """Both shards are behind routers, and each is the other's neighbour; nobody else is."""
    members = {FIRST: town.home("public"), "drafter": town.home("public")}
    members |= {"shard-0-4": town.home("prc"), "shard-4-8": town.home("prc")}
    return Layout(members, {"public": town.home("public")})


def drafter_at_home(town: Lab) -> Layout:
    """Whoever asks has to reach a drafter that nobody can call."""
    members = {name: town.home("public") for name in WORDS} | {"drafter": town.home("symf")}
    return Layout(members, {"public": town.home("public"), "at home": town.home("prc")})


def behind_carriers(town: Lab) -> Layout:
    return everybody(town, lambda: town.home("cgn"))


def symmetric(town: Lab) -> Layout:
    return everybody(town, lambda: town.home("symf"))


def behind_firewalls(town: Lab) -> Layout:
    """Public addresses, and at each host a firewall that drops what was not asked for."""
    return everybody(town, lambda: town.home("fw"))


def v4_beside_v6(town: Lab) -> Layout:
    """Those who have IPv4 alone and those who have IPv6 alone; the first one has both."""
    return _both_families(town, "prc")


def public_v4_beside_v6(town: Lab) -> Layout:
    """The same without routers: each has an address that others reach, those of the same family."""
    return _both_families(town, "public")


def _both_families(town: Lab, kind: str) -> Layout:
    v4, v6 = [only_v4(town.home(kind)) for _ in range(3)], [only_v6(town.home(kind)) for _ in range(2)]
    members = {FIRST: town.home("public"), "drafter": v4[0], "shard-0-4": v6[0], "shard-4-8": v4[1]}
    return Layout(members, {"v4": v4[2], "v6": v6[1]})


def v6_alone(town: Lab) -> Layout:
    """Nobody has IPv4."""
    return everybody(town, lambda: only_v6(town.home("prc")), only_v6(town.home("public")))


def public_v6_alone(town: Lab) -> Layout:
    return everybody(town, lambda: only_v6(town.home("public")), only_v6(town.home("public")))


def no_default_route(town: Lab) -> Layout:
    """A network that leads nowhere else: machines on a switch, without a router."""
    return _house(town, with_route=False)


def one_house(town: Lab) -> Layout:
    return _house(town, with_route=True)


def a_dead_interface(town: Lab) -> Layout:
    """Each machine at home has a second interface, with an address, whose cable is not plugged in."""
    return everybody(town, lambda: second_interface(town.home("prc"), is_up=False))


def an_interface_to_nowhere(town: Lab) -> Layout:
    """Each machine at home has a second interface that works and leads to nobody; all have the same address there."""
    return everybody(town, lambda: second_interface(town.home("prc"), is_up=True))


def public_and_nowhere(town: Lab) -> Layout:
    return everybody(town, lambda: second_interface(town.home("public"), is_up=True))


def names(town: Lab) -> Layout:
    """The first one is joined by its name, and a shard has others told its own."""
    layout = everybody(town, lambda: town.home("prc"))
    shard = layout.members["shard-0-4"] = town.home("public")
    layout.names = {"boot.dsdnode.org": layout.members[FIRST].ip, "shard.example.net": shard.ip}
    layout.more = {"shard-0-4": ("--advertise", f"tcp://shard.example.net:{PORT}")}
    layout.join = "boot.dsdnode.org"
    return layout


def same_addresses(town: Lab) -> Layout:
    """Everybody is 192.168.1.10 but the drafter, whose neighbour of that address is a node of another swarm."""
    layout = everybody(town, lambda: town.home("prc"))
    stranger = town.home("prc", num_hosts=2)
    layout.members["drafter"] = stranger.others[0]
    layout.strangers = {"stranger": stranger}
    return layout


def forwarded(town: Lab) -> Layout:
    """Routers that pass what comes on to their machine; nobody has said so to the nodes."""
    return everybody(town, lambda: town.home("cone"))


def forwarded_and_said(town: Lab) -> Layout:
    layout = forwarded(town)
    layout.more = {
        name: ("--advertise", f"tcp://{host.public_ip}:{PORT}")
        for name, host in layout.members.items()
        if name != FIRST
    }
    return layout


def house_unnamed(town: Lab) -> Layout:
    layout = one_house(town)
    layout.join = None
    return layout


def house_unnamed_no_route(town: Lab) -> Layout:
    layout = no_default_route(town)
    layout.join = None
    return layout


def house_unnamed_no_multicast(town: Lab) -> Layout:
    """As with an access point that carries none."""
    layout = house_unnamed(town)
    drop_multicast(layout)
    return layout


def house_unnamed_nothing(town: Lab) -> Layout:
    """Neither a route nor multicast."""
    layout = house_unnamed_no_route(town)
    drop_multicast(layout)
    return layout


SITUATIONS: dict[str, Callable[[Lab], Layout]] = {
    "two homes": two_homes,
    "drafter at home": drafter_at_home,
    "carrier NAT": behind_carriers,
    "symmetric NAT": symmetric,
    "firewall": behind_firewalls,
    "v4 beside v6": v4_beside_v6,
    "v4 beside v6, public": public_v4_beside_v6,
    "v6 alone": v6_alone,
    "v6 alone, public": public_v6_alone,
    "no default route": no_default_route,
    "dead interface": a_dead_interface,
    "interface to nowhere": an_interface_to_nowhere,
    "public, and nowhere": public_and_nowhere,
    "names": names,
    "same addresses": same_addresses,
    "port forwarding": forwarded,
    "port forwarding, said": forwarded_and_said,
    "LAN, no --join": house_unnamed,
    "LAN, no route": house_unnamed_no_route,
    "LAN, no multicast": house_unnamed_no_multicast,
    "LAN, neither": house_unnamed_nothing,
}


# --- hosts -----------------------------------------------------------------------------------------------------------


def only_v4(host: Host) -> Host:
    host.configure(f"addr del {host.ip6}/{_v6_bits(host)} dev eth0\n")
    return host


def only_v6(host: Host) -> Host:
    host.configure(f"addr del {host.ip}/{24 if host.router else 32} dev eth0\n")
    return host


def _v6_bits(host: Host) -> int:
    return 64 if host.router else 128


def second_interface(host: Host, is_up: bool) -> Host:
    """Nobody else is at its other end."""
    end = "eth1-nowhere"
    ip("-n", host.namespace, "link", "add", "eth1", "type", "veth", "peer", "name", end, "netns", host.namespace)
    host.configure("addr add 10.66.0.2/24 broadcast + dev eth1\n")
    for one in ("eth1", end) if is_up else ("eth1",):
        host.configure(f"link set {one} up\n")
    return host


def _house(town: Lab, with_route: bool) -> Layout:
    home = town.home("prc", num_hosts=5)
    hosts = [home, *home.others]
    if not with_route:
        for host in hosts:
            only_v4(host)
            host.configure("route del default\n")
    return Layout(dict(zip(WORDS, hosts, strict=False)), {"there": hosts[-1]})


def drop_multicast(layout: Layout) -> None:
    for index, host in enumerate([*layout.members.values(), *layout.clients.values()]):
        ip("-n", host.router, "link", "set", f"port{index}", "type", "bridge_slave", "mcast_flood", "off")
