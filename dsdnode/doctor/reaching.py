"""Whether others reach this node, and what stands between: findings. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from dsdnode.addresses import Nearness, is_ip, nearness, parse_address
from dsdnode.doctor.facts import Facts
from dsdnode.doctor.finding import Finding, Level
from dsdnode.identity import short_id
from dsdnode.net.nat import Kind
from dsdnode.net.pcp import ANOTHER_ROUTER
from dsdnode.swarm.info import AddressInfo, ReachInfo

_SHARED = ipaddress.ip_network("100.64.0.0/10")
"""What providers give to homes that share a public address (RFC 6598)."""
_LET_IN = {
    "ufw": "sudo ufw allow {port}/tcp",
    "firewalld": "sudo firewall-cmd --permanent --add-port={port}/tcp && sudo firewall-cmd --reload",
}
_ASK_PROVIDER = (
    "Ask your provider for a public IPv4 address, or for IPv6. Until then relays are the way: each node that others "
    "reach at its own address is one, unless it was started with --no-relay"
)


_PORTS = {
    Kind.SAME.value: "shows all whom this node calls the same port",
    Kind.COUNTING.value: "takes the next port for each call",
    Kind.RANDOM.value: "takes any port for each call, so that nobody can be told of one",
}


def reaching(facts: Facts) -> Iterator[Finding]:
    reach = facts.reach
    if reach is None:
        return
    yield from _firewall(facts, reach)
    yield from _router(facts, reach)
    if reach.twin:
        says = f"This node's identity is in use twice: another process has its key, at {reach.twin}."
        yield Finding(Level.BROKEN, "twin", says, "Stop one of them, or give one another --identity or --data-dir.")
    if facts.listening.advertise:
        yield from _advertised(facts, reach)
    yield _verdict(facts, reach)
    if reach.nat in _PORTS:
        where = f" ({reach.seen})" if reach.seen else ""
        yield Finding(Level.FINE, "nat", f"The router translates addresses: it {_PORTS[reach.nat]}{where}.")
    if reach.relays:
        yield Finding(Level.FINE, "relays", "This node relays for others that are not reached (--no-relay: not).")


# --- what others say


def _verdict(facts: Facts, reach: ReachInfo) -> Finding:
    direct, relayed = _reached(reach, by_relay=False), _reached(reach, by_relay=True)
    if not reach.is_known:
        says = "Nobody was there who could say whether others reach this node."
        step = "See above why nobody could be joined." if facts.members else "Join somebody (--join), and ask again."
        return Finding(Level.DOUBT, "reach-unknown", says, step)
    if not reach.is_cut_off and direct:
        if reach.is_far or not _looks_private(facts):
            return Finding(Level.FINE, "reached", f"Others reach this node, at {_listed(direct)}{_seen(reach)}.")
        says = f"Others in this house reach this node, at {_listed(direct)}; nobody from outside was there to try."
        return Finding(Level.DOUBT, "reached-near", says, "Join somebody who is elsewhere (--join), and ask again.")
    if relayed:
        relays = ", ".join(f"{short_id(bytes.fromhex(one.by))} ({one.address})" for one in relayed)
        says = f"Others reach this node by way of a relay, {relays}: slower than directly, and all the same."
        return Finding(Level.FINE, "relayed", says, f"To be reached directly: {_lower(_step(facts, reach))}")
    if any(one.reached and one.address == reach.seen for one in reach.addresses):
        says = f"Others reach this node at {reach.seen}, perhaps those alone whom it has called; no relay is found."
        return Finding(Level.DOUBT, "reached-some", says, _step(facts, reach))
    called = [one for one in reach.addresses if one.reached is not None] or reach.addresses
    says = f"Others do not reach this node: nobody was answered at {_listed(called)}{_seen(reach)}."
    return Finding(Level.BROKEN, "unreached", f"{says} {_why_no_relay(reach)}", _step(facts, reach))


def _reached(reach: ReachInfo, by_relay: bool) -> list[AddressInfo]:
    return [one for one in reach.addresses if one.reached and bool(one.by) is by_relay]


def _why_no_relay(reach: ReachInfo) -> str:
    if not reach.num_able:
        peers = "no peer is" if not reach.num_peers else "none of the peers that are"
        return f"No relay is found: {peers} known that could be asked."
    return f"No relay is found yet, of {reach.num_able} that could be asked" + (
        f" ({reach.why_no_relay})." if reach.why_no_relay else "."
    )


def _step(facts: Facts, reach: ReachInfo) -> str:
    """What would have others reach it directly."""
    port = _port(facts)
    if facts.machine.firewall.shuts:
        return let_in(facts, port)
    if is_behind_carrier(facts, reach):
        return f"{_ASK_PROVIDER}."
    if _looks_private(facts):
        own = facts.machine.route_v4
        return (
            f'Have your router pass TCP port {port} on to {own} ("port forwarding"), or switch on UPnP, NAT-PMP or PCP '
            "in its settings; with a forwarded port say --advertise tcp://PUBLIC_ADDRESS:PORT, too."
        )
    return f"A firewall on the way keeps them out (your provider's, a cloud's): have it let TCP port {port} in."


def let_in(facts: Facts, port: int) -> str:
    command = _LET_IN.get(facts.machine.firewall.tool)
    if command is None:
        return f"Have this machine's firewall accept TCP port {port}."
    return f"Let it in: {command.format(port=port)}"


def _seen(reach: ReachInfo) -> str:
    return f" (they see it at {', '.join(reach.seen_at)})" if reach.seen_at else ""


# --- what stands between


def _firewall(facts: Facts, reach: ReachInfo) -> Iterator[Finding]:
    firewall, port = facts.machine.firewall, _port(facts)
    name = firewall.tool or "the firewall"
    if firewall.shuts is None:
        seen = f"{firewall.tool} is at work on this machine; its" if firewall.tool else "This machine's firewall: its"
        says = f"{seen} rules are not for this user to see, so whether TCP port {port} is let in cannot be told."
        if reach.is_known and not reach.is_cut_off:
            return  # whatever it is, it lets others in
        yield Finding(
            Level.DOUBT, "firewall-unseen", says, "Look yourself: sudo nft list ruleset, or sudo dsdnode doctor."
        )
    elif not firewall.shuts:
        yield Finding(
            Level.FINE, "firewall-open", f"This machine's firewall, as far as it can be read, lets port {port} in."
        )
    elif reach.is_known and not reach.is_cut_off:
        says = f"By its rules {name} would not let TCP port {port} in, and yet others reach this node."
        yield Finding(Level.FINE, "firewall-open", says)
    else:
        level = Level.BROKEN if reach.is_known else Level.DOUBT
        says = (
            f"By the rules of this machine's firewall{f' ({name})' if firewall.tool else ''} TCP port {port} is shut."
        )
        yield Finding(level, "firewall", says, let_in(facts, port))


def _router(facts: Facts, reach: ReachInfo) -> Iterator[Finding]:
    """The house's, of a machine that lives behind one."""
    if not _looks_private(facts) or facts.listening.advertise:
        return
    mapped = mapped_by(facts, reach)
    reached_otherwise = bool(reach.is_known and any(one.reached for one in reach.addresses))
    level = Level.FINE if reached_otherwise else Level.DOUBT
    if mapped is not None and mapped.reached is not False:
        yield Finding(Level.FINE, "port-mapped", f"The router gives a port: {mapped.address}.")
    elif is_behind_carrier(facts, reach):
        why = f" ({reach.why_no_port})" if reach.why_no_port else ""
        says = f"Your router has no public address itself: another one, your provider's, stands before it{why}."
        yield Finding(level, "carrier", f"{says} A port of your own router leads nowhere then.", f"{_ASK_PROVIDER}.")
    elif mapped is not None:
        says = f"The router gives a port, {mapped.address}, and nobody was answered there."
        yield Finding(level, "port-dead", says, "Does another router, or a firewall of the provider, stand before it?")
    elif reach.why_no_port and (reach.is_cut_off or not reach.is_known):
        says = f"The router gives no port by itself: {reach.why_no_port}."
        yield Finding(level, "port-none", says, "Switch on UPnP, NAT-PMP or PCP in its settings.")


def mapped_by(facts: Facts, reach: ReachInfo) -> AddressInfo | None:
    """The address that the router has given."""
    own = {host for one in facts.machine.interfaces for host in one.hosts}
    others = [one for one in reach.addresses if not one.by and one.address != reach.seen]
    others = [one for one in others if parse_address(one.address)[0] not in own]
    return next((one for one in others if nearness(parse_address(one.address)[0]) is Nearness.WORLD), None)


def is_behind_carrier(facts: Facts, reach: ReachInfo) -> bool:
    """Does a second router stand before the house's? It says so, or the world sees us elsewhere than it says."""
    if ANOTHER_ROUTER in reach.why_no_port:
        return True
    own = facts.machine.route_v4
    if own and ipaddress.ip_address(own) in _SHARED:
        return True
    mapped, seen = mapped_by(facts, reach), [one for one in reach.seen_at if ":" not in one]
    far = [one for one in seen if nearness(one) is Nearness.WORLD]
    return mapped is not None and not mapped.reached and bool(far) and parse_address(mapped.address)[0] not in far


def _advertised(facts: Facts, reach: ReachInfo) -> Iterator[Finding]:
    known = {one.address: one.reached for one in reach.addresses}
    port = parse_address(facts.listening.where, lowest_port=0)[1]
    for address in facts.listening.advertise:
        reached = known.get(address)
        if reached:
            continue
        if reached is False:
            says = f"--advertise tells others {address}, and nobody was answered there."
            step = f"Have that address and port lead to port {port} of this machine, or leave --advertise out."
            yield Finding(Level.BROKEN, "advertise", says, step)
        elif reach.is_known:
            says = f"--advertise tells others {address}, and nobody who is known would call that."
            yield Finding(Level.DOUBT, "advertise-untried", says, "Is it an address that means something to them?")


# ---


def _looks_private(facts: Facts) -> bool:
    """Does it call the world from an address that means something in its own house alone?"""
    own = facts.machine.route_v4
    return bool(own) and is_ip(own) and nearness(own) is not Nearness.WORLD


def _port(facts: Facts) -> int:
    return parse_address(facts.listening.where, lowest_port=0)[1]


def _listed(addresses: list[AddressInfo] | tuple[AddressInfo, ...]) -> str:
    return ", ".join(one.address for one in addresses) or "any address"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
