"""Kinds of homes: what their routers do, as nftables has it, and what is seen of them from outside.

All are Linux's own address translation. Other vendors' routers are like one of these, and not all of them are here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """`mapping`: the outside ports of one inside port, as two observers see them; then what comes of a SYN to that port
    from a stranger, and from another port of an observer's address."""

    mapping: str
    stranger: str
    known: str


@dataclass(frozen=True)
class Kind:
    """`ports`: how outside ports are chosen (nft's flags of masquerade; "counting": one after the other). `lets_in`:
    who gets to the first host's ports without having been called: "", "known" or "all". `carrier`: the flags of a
    second translation, the provider's."""

    what: str
    look: Look
    ports: str = ""
    lets_in: str = ""
    resets: bool = False
    carrier: str | None = None


SHUT = Look("same", "silence", "silence")
RANDOM = Look("random", "silence", "silence")
KINDS = {
    "public": Kind("a public address, nothing in the way", Look("same", "open", "open")),
    "fw": Kind("a public address, and a firewall at the host", SHUT),
    "cone": Kind("full cone: whatever comes in goes to the host", Look("same", "open", "open"), lets_in="all"),
    "arc": Kind("the same for addresses that were called", Look("same", "silence", "open"), lets_in="known"),
    "prc": Kind("port-restricted: masquerade, the port is kept", SHUT),
    "prcrst": Kind("the same; the router answers what it lets not in", Look("same", "refused", "refused"), resets=True),
    "cgn": Kind("prc, behind a carrier's prc", SHUT, carrier=""),
    "symseq": Kind("symmetric: ports one after the other", Look("next", "silence", "silence"), ports="counting"),
    "sym": Kind("symmetric: random ports", RANDOM, ports="random"),
    "symf": Kind("the same, by the better generator", RANDOM, ports="fully-random"),
    "cgnsym": Kind("prc, behind a carrier's random ports", RANDOM, carrier="fully-random"),
}
"""Of IPv6, all but the first have a router or a host that lets in answers alone, and nothing is translated."""

FIREWALL = """
table inet home {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "lo" accept
        meta l4proto ipv6-icmp accept
    }
}
"""
"""Of a host without a router."""
_FIRST_PORT, _NUM_PORTS = 20000, 2048
"""Of the counting kind: it begins anew where they end."""


def router_rules(kind: Kind, outside: str, host: str) -> str:
    """Of a home's own router, which has `outside` as its address; `host`: who gets what is let in."""
    return _rules(kind.ports, outside, host if kind.lets_in else "", kind.lets_in == "known", kind.resets)


def carrier_rules(kind: Kind, outside: str) -> str:
    return _rules(kind.carrier or "", outside, "", False, False)


def _rules(ports: str, outside: str, host: str, only_known: bool, resets: bool) -> str:
    """What comes from `lan` goes out of `wan`. What a later program maps (miniupnpd) is let in as well."""
    translate = _counting(outside) if ports == "counting" else ""
    enter = f"meta l4proto {{ tcp, udp }} th dport 1024-65535 dnat ip to {host}" if host else ""
    stray = "meta l4proto tcp reject with tcp reset" if resets else ""
    known = "ip saddr @called " if only_known else ""
    return f"""
table inet home {{
    set called {{
        type ipv4_addr
        flags dynamic, timeout
        timeout 120s
        size 65535
    }}
    chain enter {{
        type nat hook prerouting priority dstnat;
        iifname "wan" {enter or "continue"}
    }}
    chain leave {{
        type nat hook postrouting priority srcnat;
        {translate}
        oifname "wan" meta nfproto ipv4 masquerade {"" if ports == "counting" else ports}
    }}
    chain pass {{
        type filter hook forward priority filter; policy drop;
        iifname "lan" oifname "wan" update @called {{ ip daddr }}
        iifname "lan" accept
        ct state established,related accept
        ct status dnat {known}accept
    }}
    chain input {{
        type filter hook input priority filter;
        ct state established,related accept
        iifname "lan" accept
        meta l4proto ipv6-icmp accept
        iifname "wan" {stray or "drop"}
        iifname "wan" drop
    }}
}}
"""


def _counting(outside: str) -> str:
    ports = ", ".join(f"{number} : {_FIRST_PORT + number}" for number in range(_NUM_PORTS))
    return f'oifname "wan" meta l4proto tcp snat ip to {outside} : numgen inc mod {_NUM_PORTS} map {{ {ports} }}'
