"""What the facts mean: findings in plain words, worst first, each with the next step where there is one. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsdnode.addresses import parse_address
from dsdnode.doctor.facts import Facts, Interface
from dsdnode.doctor.finding import Finding, Level
from dsdnode.doctor.joining import joining
from dsdnode.doctor.reaching import reaching

MIN_FREE_BYTES = 32 << 20
"""On the disk: two logs of 8 MiB at most, a key, and what is remembered of the swarm."""
MIN_DESCRIPTORS = 1024
"""A connection each, of peers, and of strangers at the door."""
MAX_INTERFACES = 16
"""That are told of."""


def findings(facts: Facts) -> list[Finding]:
    """Worst first; what a user does first comes first among equals."""
    found = [*_files(facts), *_node(facts), *_network(facts), *joining(facts), *reaching(facts), *_machine(facts)]
    return sorted(found, key=lambda one: one.level)


def _node(facts: Facts) -> Iterator[Finding]:
    where = facts.listening.where
    if facts.running:
        yield Finding(Level.FINE, "node", f"A node is running here, and listens at {where}.")
    if facts.unanswered:
        says = f"A node is there that cannot be asked: {facts.unanswered}."
        yield Finding(Level.BROKEN, "node-silent", says, "Look into its log; end it, and start it again.")
    for trouble in facts.troubles:
        yield Finding(Level.DOUBT, "engine", f"{trouble[:1].upper()}{trouble[1:]}.", "Its log says more.")
    if facts.listening.trouble:
        yield _not_listening(facts)
    elif not facts.running:
        yield Finding(Level.FINE, "node", f"No node is running here. One that is started can listen at {where}.")


def _not_listening(facts: Facts) -> Finding:
    port = parse_address(facts.listening.where, lowest_port=0)[1]
    if " in use" not in facts.listening.trouble:
        return Finding(Level.BROKEN, "listen", f"A node could not start here: {facts.listening.trouble}.")
    who = facts.listening.used_by
    says = f"Port {port} is in use{f' by {who}' if who else ', by a program that this user may not see'}."
    step = "Stop that program, or start with another port: --listen 'tcp://[::]:PORT'."
    return Finding(Level.BROKEN, "port-in-use", says, step)


def _network(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    reached = {one.address: one.reached for one in (facts.reach.addresses if facts.reach else ())}
    by_host: dict[str, bool | None] = {parse_address(address)[0]: said for address, said in reached.items()}
    why_not = dict(machine.not_told)
    if not any(one.works and one.hosts for one in machine.interfaces):
        says = "This machine is in no network: no interface that works has an address."
        yield Finding(Level.BROKEN, "no-network", says, "Connect it (cable, wireless), and ask again.")
    elif not machine.route_v4 and not machine.route_v6:
        says = "No default route: nothing leads out of the networks that this machine is in."
        level = Level.DOUBT if any(one.greeted for one in facts.members) else Level.BROKEN
        yield Finding(
            level, "no-route", says, "Have the router give one (DHCP), or set it: ip route add default via ROUTER."
        )
    else:
        yield Finding(Level.FINE, "route", f"The way to the world: {_ways(facts)}.")
    for one in [one for one in machine.interfaces if one.works][:MAX_INTERFACES]:
        yield Finding(Level.FINE, "interface", _interface(one, by_host, why_not))
    if down := [one.name for one in machine.interfaces if not one.works][:MAX_INTERFACES]:
        yield Finding(Level.FINE, "interface", f"{', '.join(down)}: not at work (down).")


def _ways(facts: Facts) -> str:
    machine = facts.machine
    gateway = f", by the router {machine.gateway}" if machine.gateway else ""
    v4 = f"IPv4 from {machine.route_v4}{gateway}" if machine.route_v4 else "no IPv4"
    return f"{v4}; {f'IPv6 from {machine.route_v6}' if machine.route_v6 else 'no IPv6'}"


def _interface(one: Interface, reached: dict[str, bool | None], why_not: dict[str, str]) -> str:
    said = {True: "others reach it", False: "others do not reach it", None: "nobody has tried it yet"}
    told = [
        f"{host} (told to others; {said[reached[host]]})" if host in reached else f"{host} (not told: {why})"
        for host in one.hosts
        if (why := why_not.get(host, "others have no use for it")) or host in reached
    ]
    return f"{one.name}: {', '.join(told) or 'no address that leads to it'}."


def _machine(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if 0 < machine.descriptors < MIN_DESCRIPTORS:
        says = f"A process may have {machine.descriptors} descriptors here; each connection takes one."
        yield Finding(Level.DOUBT, "descriptors", says, "Raise the limit: ulimit -Hn, LimitNOFILE= of a systemd unit.")
    needed = sum(model.num_bytes for model in facts.files.models)
    if not facts.running and machine.free_memory_bytes and needed > machine.free_memory_bytes:
        says = f"{_gb(machine.free_memory_bytes)} of memory are free, and the models have {_gb(needed)}."
        yield Finding(Level.DOUBT, "memory", says, "Host fewer layers (--layers, --max-memory), or end other programs.")
    if machine.clock_set is False:
        says = "Nothing is seen to keep this machine's clock right (NTP): invitations end by it, and nothing else."
        yield Finding(Level.FINE, "clock", says)
    elif machine.clock_set:
        yield Finding(Level.FINE, "clock", "This machine's clock is kept right by others (NTP).")


def _files(facts: Facts) -> Iterator[Finding]:
    files = facts.files
    if files.trouble:
        step = "" if "--" in files.trouble or "chmod" in files.trouble else "Choose another with --data-dir."
        yield Finding(Level.BROKEN, "data-dir", f"{files.trouble[:1].upper()}{files.trouble[1:]}.", step)
    else:
        yield Finding(Level.FINE, "data-dir", f"The data dir, {files.data_dir}, is this user's own.")
    if files.free_bytes is not None and files.free_bytes < MIN_FREE_BYTES:
        says = f"The disk with {files.data_dir} is full: {files.free_bytes / 1e6:.1f} MB are free."
        yield Finding(Level.BROKEN, "disk", says, "Free some, or choose another --data-dir.")
    for model in files.models:
        if model.trouble:
            option = "--model" if model.role == "shard" else "--model-draft"
            says = f"The model of the {model.role} cannot be served: {model.trouble.rstrip('.')}."
            yield Finding(Level.BROKEN, "model", says, f"Name another file with {option}, or fetch this one again.")
        else:
            says = f"The model of the {model.role} is there: {model.path}, {_gb(model.num_bytes)}."
            yield Finding(Level.FINE, "model", says)
    shards = [model.num_bytes for model in files.models if model.role == "shard"]
    if files.free_bytes is not None and MIN_FREE_BYTES <= files.free_bytes < max(shards, default=0):
        says = f"The disk with {files.data_dir} has {_gb(files.free_bytes)} free: layers cut from a model go there."
        yield Finding(Level.DOUBT, "disk", says, "Free some, choose another --data-dir, or serve a file cut elsewhere.")


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
