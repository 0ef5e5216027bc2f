"""What became of each member that is named to be joined, or remembered: findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsdnode.addresses import is_ip, parse_address
from dsdnode.doctor.facts import Answer, Facts, Machine, Member, Tried
from dsdnode.doctor.finding import Finding, Level
from dsdnode.net.handshake import KEY_NEEDED, NO_KEY_HERE, OTHER_VERSION, WRONG_KEY

_TODAY = "sk its owner for its join string of today (`dsdnode status` shows it there)."
_HOPES = (Answer.OPEN, Answer.REFUSED, Answer.SILENT, Answer.NO_WAY, Answer.NO_RESOLVER, Answer.UNKNOWN_NAME)
"""Of several addresses the one that got the furthest says what to do."""
_REFUSALS = (
    (WRONG_KEY, "join-swarm-key", "Compare the file behind --swarm-key with that of another member, to the letter."),
    (KEY_NEEDED, "join-swarm-key", "Ask a member for the key, and say --swarm-key @FILE."),
    (
        NO_KEY_HERE,
        "join-swarm-key",
        "Leave --swarm-key (and DSDNODE_SWARM_KEY) out, or join a member of your own swarm.",
    ),
    ("does not know the swarm key", "join-swarm-key", "It is no member of this private swarm: join another one."),
    (OTHER_VERSION, "join-version", "Update the older of the two: `dsdnode version` says which one this is."),
    ("banned", "join-banned", "It lets this machine in again after a while; its log says what was wrong."),
    ("the key", "join-key", f"Somebody else has that address now, or its node a new identity: a{_TODAY}"),
)


def joining(facts: Facts) -> Iterator[Finding]:
    members = facts.members
    if not members:
        others = facts.reach.num_peers if facts.reach is not None else 0
        if others:
            says = f"Nobody to join is named; {others} known (in this house, say)."
        else:
            says = "Nobody to join is named, none is remembered, and none is in this house: a node begins a swarm here."
        yield Finding(
            Level.FINE, "join-none", says, "" if others else "To join one, say --join with what it was given."
        )
    some_answer = any(member.greeted for member in members)
    for member in members:
        is_needed = member.named and not some_answer and not _follows(member, facts.machine)
        yield _of(member, facts.machine, Level.BROKEN if is_needed else Level.DOUBT)
    if members and not some_answer and not any(one.named for one in members):
        yield Finding(
            Level.BROKEN,
            "join-lost",
            "None of the members that were known last answers: a node begins a swarm of its own, and goes on looking.",
            "Ask somebody who is in it for a join string, and say --join.",
        )


def _follows(member: Member, machine: Machine) -> bool:
    """Is it only to be expected, of a machine from which no way leads to the world? That is said elsewhere."""
    is_cut_off = not machine.route_v4 and not machine.route_v6
    return is_cut_off and all(one.answer in (Answer.NO_WAY, Answer.NO_RESOLVER) for one in member.tried)


def _of(member: Member, machine: Machine, level: Level) -> Finding:
    who = f"{'Member' if member.named else 'Remembered member'} {member.key[:12]}"
    if member.is_self:
        return Finding(Level.FINE, "join-self", f"{who} is this node itself: it joins nobody there.")
    where = ", ".join(one.address for one in member.tried)
    if member.greeted:
        return Finding(Level.FINE, "join", f"{who} answers, at {where}.")
    best = min(member.tried, key=lambda one: _HOPES.index(one.answer) if one.answer in _HOPES else len(_HOPES))
    kind, why, step = _greeting(member) if best.answer is Answer.OPEN else _call(best, machine)
    rest = "".join(
        f" {_call(one, machine)[1]}" for one in member.tried if one is not best and one.answer is not best.answer
    )
    return Finding(level, kind, f"{who} cannot be joined. {why}{rest}", step)


def _greeting(member: Member) -> tuple[str, str, str]:
    """Kind, why, and the next step, where a connection was made."""
    why = member.trouble or "It does not answer the greeting."
    for words, kind, step in _REFUSALS:
        if words in why:
            return kind, f"{why.rstrip('.')}.", step
    return "join-greeting", f"{why.rstrip('.')}.", "Try again in a minute; its log says more."


def _call(tried: Tried, machine: Machine) -> tuple[str, str, str]:
    host, port = parse_address(tried.address)
    where = f"{tried.address.removeprefix('tcp://')}"
    match tried.answer:
        case Answer.REFUSED:
            why = f"The machine at {host} is there, and refuses port {port}: nobody listens, or its firewall says no."
            return "join-refused", why, f"Is its node running, and at that port? A{_TODAY}"
        case Answer.SILENT:
            why = f"Nothing comes back from {where}: that machine is off, or something on the way drops our calls."
            return "join-silent", why, "Ask its owner what `dsdnode doctor` says there, or join by another member."
        case Answer.UNKNOWN_NAME:
            return "join-name", f"There is no host called {host}.", f"Look for a typing error in --join, or a{_TODAY}"
        case Answer.NO_RESOLVER:
            why = f"The name {host} could not be asked for: no name server answers."
            return "resolver", why, "Mend this machine's name servers (/etc/resolv.conf), or join by an IP address."
        case Answer.NO_WAY:
            return _no_way(tried, host, where, machine)
    return "join-open", f"{where} answers.", ""


def _no_way(tried: Tried, host: str, where: str, machine: Machine) -> tuple[str, str, str]:
    hosts = tried.hosts or ((host,) if is_ip(host) else ())
    if hosts and all(":" in one for one in hosts) and not machine.route_v6 and machine.route_v4:
        why = f"{where} is an IPv6 address, and this machine has no IPv6 to the world."
        return "join-family", why, "Join by a member with an IPv4 address, or have your provider switch IPv6 on."
    if hosts and not any(":" in one for one in hosts) and not machine.route_v4 and machine.route_v6:
        why = f"{where} is an IPv4 address, and this machine has no IPv4 to the world."
        return "join-family", why, "Join by a member with an IPv6 address."
    return (
        "join-no-way",
        f"No way leads from this machine to {where}.",
        "Look at this machine's network: its default route.",
    )
