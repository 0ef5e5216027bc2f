"""`dsdnode doctor` on machines where something is wrong, each in a network of its own: what it says, and is it right?

A scene is a home (or a host with a public address), what is broken there, and the words that the doctor is called with.
Two members are always there to be joined: carol's node relays, dave's does not; both have public addresses.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dsdnode.identity import Identity
from tests.nat.lab import Host, Lab, lab
from tests.nat.namespaces import within
from tests.node.mutation import ROOT
from tests.node.processes import COMMAND, Swarm, swarm

TIMEOUT_S = 60.0
PORT = 29170
OTHER_KEY = Identity(b"mallory".ljust(32)).public_key.hex()


@dataclass
class Case:
    """`before`: shell commands of its own, in a mount namespace that goes with it. `kinds`: findings that are broken;
    `says`: what must stand in them, and in their next steps; `code`: of the doctor's exit."""

    host: Host
    words: tuple[str, ...]
    kinds: tuple[str, ...]
    says: tuple[str, ...] = ()
    before: str = "true"
    fine: tuple[str, ...] = ()
    """Kinds that must be there, and fine."""


@dataclass
class Town:
    lab: Lab
    people: Swarm
    folder: Path
    carol: Host
    dave: Host
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def at_carols(self) -> tuple[str, ...]:
        return "--join", self.people.daemons["carol"].join

    @property
    def at_daves(self) -> tuple[str, ...]:
        return "--join", self.people.daemons["dave"].join

    def join(self, host: str, port: int = PORT, key: str = "") -> tuple[str, ...]:
        """At an address that need not be hers, with a key that need not be hers."""
        return "--join", f"dsd://{host}:{port}/{key or self.people.daemons['carol'].join.rpartition('/')[2]}"

    def program(self, namespace: str, *words: str) -> None:
        """One of tests/nat/helpers.py, which is at work when this returns."""
        command = [*within(namespace), sys.executable, "-m", "tests.nat.helpers", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment)
        self.helpers.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n", words


def no_network(town: Town) -> Case:
    host = town.lab.home("prc")
    host.configure("link set eth0 down\n")
    return Case(host, town.at_carols, ("no-network",), ("in no network", "Connect it"))


def no_default_route(town: Town) -> Case:
    host = town.lab.home("prc")
    host.configure("route del default\nroute del ::/0\n")
    return Case(host, town.at_carols, ("no-route",), ("No default route", "ip route add default"))


def router_shut(town: Town) -> Case:
    """And nobody relays."""
    return Case(
        town.lab.home("prc"),
        town.at_daves,
        ("unreached",),
        ("No relay is found", f"pass TCP port {PORT} on to 192.168.1.10", "The router gives no port"),
        fine=("join",),
    )


def router_shut_and_a_relay(town: Town) -> Case:
    return Case(town.lab.home("symf"), town.at_carols, (), fine=("relayed", "join"))


def carrier(town: Town) -> Case:
    """The router gives a port, of an address that is its provider's."""
    host = town.lab.home("cgn")
    town.program(host.router, "router", "192.168.1.1", "100.64.9.2")
    return Case(host, town.at_daves, ("unreached",), ("your provider's, stands before it", "Ask your provider"))


def firewall_of_its_own(town: Town) -> Case:
    says = (f"TCP port {PORT} is shut", f"firewall accept TCP port {PORT}")
    return Case(town.lab.home("fw"), town.at_daves, ("firewall", "unreached"), says)


def port_refused(town: Town) -> Case:
    words = town.join(town.carol.public_ip, PORT + 1)
    return Case(town.lab.home("prc"), words, ("join-refused",), (f"refuses port {PORT + 1}", "Is its node running"))


def name_unknown(town: Town) -> Case:
    """A name server that knows nobody."""
    resolver = f"echo nameserver {town.dave.public_ip} > {town.folder}/resolv.conf"
    before = f"{resolver} && mount --bind {town.folder}/resolv.conf /etc/resolv.conf"
    words = town.join("no-such-host.example.org")
    return Case(town.lab.home("prc"), words, ("join-name",), ("no host called no-such-host",), before)


def name_server_silent(town: Town) -> Case:
    before = f"echo nameserver 11.250.250.1 > {town.folder}/none && mount --bind {town.folder}/none /etc/resolv.conf"
    says = ("no name server answers", "/etc/resolv.conf")
    return Case(town.lab.home("prc"), town.join("carol.example.org"), ("resolver",), says, before)


def swarm_key_wrong(town: Town) -> Case:
    key = town.folder / "wrong.key"
    key.touch(0o600)
    key.write_text("correct horse battery stable")
    words = ("--join", town.people.daemons["erin"].join, "--swarm-key", f"@{key}")
    return Case(town.lab.home("public"), words, ("join-swarm-key",), ("wrong swarm key", "Compare the file"))


def swarm_key_missing(town: Town) -> Case:
    words = ("--join", town.people.daemons["erin"].join)
    return Case(town.lab.home("public"), words, ("join-swarm-key",), ("is private", "Ask a member for the key"))


def old_join_string(town: Town) -> Case:
    words = town.join(town.carol.public_ip, key=OTHER_KEY)
    return Case(town.lab.home("public"), words, ("join-key",), ("does not have the key", "join string of today"))


def member_behind_a_firewall(town: Town) -> Case:
    host = town.lab.home("fw")
    words = town.join(host.public_ip)
    return Case(town.lab.home("prc"), words, ("join-silent",), ("Nothing comes back", "join by another member"))


def port_in_use(town: Town) -> Case:
    host = town.lab.home("public")
    town.program(host.namespace, "listen", str(PORT))
    return Case(
        host, town.at_carols, ("port-in-use",), (f"Port {PORT} is in use by python", "--listen"), fine=("join",)
    )


def only_ipv6_there(town: Town) -> Case:
    host = town.lab.home("public")
    host.configure(f"addr del {host.ip6}/128 dev eth0\nroute del ::/0\n")
    words = town.join(f"[{town.carol.ip6}]")
    return Case(host, words, ("join-family",), ("has no IPv6 to the world", "member with an IPv4 address"))


def advertised_in_vain(town: Town) -> Case:
    host = town.lab.home("prc")
    words = (*town.at_daves, "--advertise", f"tcp://{host.public_ip}:{PORT}")
    says = (f"--advertise tells others tcp://{host.public_ip}:{PORT}", "leave --advertise out")
    return Case(host, words, ("advertise", "unreached"), says)


def folder_of_another(town: Town) -> Case:
    folder = town.folder / "bobs"
    folder.mkdir(mode=0o755)
    os.chown(folder, 65534, 65534)
    words = (*town.at_carols, "--data-dir", str(folder))
    return Case(town.lab.home("public"), words, ("data-dir",), ("is another user's", "--data-dir"))


def disk_full(town: Town) -> Case:
    folder = town.folder / "full"
    folder.mkdir(mode=0o700)
    before = f"mount -t tmpfs -o size=1m,mode=700 none {folder} && dd if=/dev/zero of={folder}/all 2>/dev/null; true"
    words = (*town.at_carols, "--data-dir", str(folder))
    return Case(town.lab.home("public"), words, ("disk",), ("is full: 0.0 MB", "Free some"), before)


def model_missing(town: Town) -> Case:
    words = (*town.at_carols, "--role", "shard", "--model", str(town.folder / "gone.gguf"))
    return Case(town.lab.home("public"), words, ("model",), ("gone.gguf", "--model"))


def a_node_that_runs(town: Town) -> Case:
    """It is asked; the doctor says what it has found out in the meantime."""
    host = town.lab.home("prc")
    place = within(host.namespace)
    words = ("--role", "bootstrap", *town.at_daves)
    running = town.people.start("running", *words, listen=f"tcp://[::]:{PORT}", within=place)
    assert running.ready
    until_s = time.monotonic() + TIMEOUT_S
    while "do not reach" not in running.status()["reach"] and time.monotonic() < until_s:
        pass  # (a command of its own, each time)
    words = ("--data-dir", str(running.data_dir))
    return Case(host, words, ("unreached",), (f"pass TCP port {PORT} on to 192.168.1.10",), fine=("node", "join"))


CASES: tuple[Callable[[Town], Case], ...] = (
    *(no_network, no_default_route, router_shut, carrier, firewall_of_its_own, port_refused, name_unknown),
    *(name_server_silent, swarm_key_wrong, swarm_key_missing, old_join_string, member_behind_a_firewall, port_in_use),
    *(only_ipv6_there, advertised_in_vain, folder_of_another, disk_full, model_missing, a_node_that_runs),
    router_shut_and_a_relay,
)


def main(folder: Path, tells_all: bool) -> int:
    """Exit code 1: a doctor said something else than is right."""
    num_wrong = 0
    with lab() as made, swarm(folder) as people, _town(made, people, folder) as town:
        for play in CASES:
            case = play(town)
            begun_s = time.monotonic()
            code, found = _ask(town, case)
            took_s = time.monotonic() - begun_s
            wrong = _wrong(case, code, found)
            num_wrong += bool(wrong)
            print(f"\n{play.__name__.replace('_', ' ')}: exit code {code} after {took_s:.1f} s", *wrong)
            for one in found if tells_all else [one for one in found if one["level"] != "fine"]:
                print(f"  {one['level']:6}  {one['kind']:16}  {one['says']}")
                if one["step"]:
                    print(f"{'':28}Next: {one['step']}")
    print(f"\n{len(CASES)} set-ups, {num_wrong} of them told wrong")
    return int(num_wrong > 0)


@contextlib.contextmanager
def _town(made: Lab, people: Swarm, folder: Path) -> Iterator[Town]:
    hosts = {name: made.home("public") for name in ("carol", "dave", "erin")}
    town = Town(made, people, folder, hosts["carol"], hosts["dave"])
    key = folder / "right.key"
    key.touch(0o600)
    key.write_text("correct horse battery staple")
    words = {"carol": (), "dave": ("--no-relay",), "erin": ("--no-relay", "--swarm-key", f"@{key}")}
    for name, host in hosts.items():
        place = within(host.namespace)
        people.start(name, "--role", "bootstrap", *words[name], listen=f"tcp://[::]:{PORT}", within=place)
    town.program(town.dave.namespace, "names")
    try:
        yield town
    finally:
        for process in town.helpers:
            with process:
                process.kill()


def _ask(town: Town, case: Case) -> tuple[int, list[dict[str, str]]]:
    """What the doctor says there."""
    own = () if "--data-dir" in case.words else ("--data-dir", str(town.folder / "alice"))
    command = (*COMMAND, "doctor", "--json", *own, *case.words)
    shell = ("sh", "-c", f'{case.before} && exec "$@"', "sh", *command)
    done = subprocess.run(
        [*within(case.host.namespace), *shell], capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT
    )
    if not done.stdout:
        return done.returncode, [{"level": "none", "kind": "", "says": done.stderr.strip(), "step": ""}]
    found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return done.returncode, found


def _wrong(case: Case, code: int, found: list[dict[str, str]]) -> list[str]:
    """In words, for each thing that is."""
    broken = {one["kind"] for one in found if one["level"] == "broken"}
    fine = {one["kind"] for one in found if one["level"] == "fine"}
    text = "\n".join(f"{one['says']} {one['step']}" for one in found)
    return [
        *(["WRONG: exit code"] if code != bool(case.kinds) else []),
        *([f"WRONG: broken are {sorted(broken)}, not {sorted(case.kinds)}"] if broken != set(case.kinds) else []),
        *(f"WRONG: nothing says {words!r}" for words in case.says if words not in text),
        *(f"WRONG: {kind} is not fine" for kind in case.fine if kind not in fine),
    ]
