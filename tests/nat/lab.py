"""A small internet in network namespaces: hosts with public addresses, and homes behind routers of several kinds.

    with lab() as town:
        carol = town.home("public")
        alice = town.home("prc", delay_ms=10)      # 192.168.1.10, as the first host of every home
        with alice.inside():
            sock = socket.socket()                 # a socket of this process that lives there
        alice.popen(sys.executable, "-c", "...")   # a process there

Each home has a public network of its own (another /24, another /48), of the wide world: where networks count, these do.
Nothing of it reaches the real one. All lines meet at one core, so that times to live count. All homes use
192.168.1.0/24, as they do: who dials an address of another home reaches a stranger.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.nat import delay
from tests.nat.kinds import FIREWALL, KINDS, Kind, carrier_rules, router_rules
from tests.nat.namespaces import configure, inside, ip, namespaces, sysctl, within

CORE = "11.0.0.1"
MAX_HOMES = 250
_ABOVE, _BELOW = "fe80::1", "fe80::2"
"""The ends of every line, in IPv6."""


@dataclass(eq=False)
class Host:
    """`public_ip`: as others see it; `ip`: its own. `router`, `carrier`: namespaces of those before it, or ""."""

    namespace: str
    ip: str
    ip6: str
    public_ip: str
    gateway: str
    router: str = ""
    carrier: str = ""
    others: list[Host] = field(default_factory=list)
    """The further ones of its home."""
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    def inside(self) -> contextlib.AbstractContextManager[None]:
        return inside(self.namespace)

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[Any]:
        """A process there. It is killed when the lab ends."""
        process = subprocess.Popen([*within(self.namespace), *words], **more)
        self.processes.append(process)
        return process

    def configure(self, lines: str) -> None:
        """Commands of `ip`, a line each: how an address comes, goes, or a link breaks."""
        configure(self.namespace, lines)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    with namespaces() as add:
        town = Lab(add)
        try:
            yield town
        finally:
            for process in reversed(town.processes()):
                with process:
                    process.kill()


class Lab:
    def __init__(self, add: Callable[[], str]) -> None:
        self._add = add
        self._num_homes = 0
        self._hosts: list[Host] = []
        self._lines: list[subprocess.Popen[Any]] = []
        self._core = self._node(forwards=True)
        configure(self._core, f"addr add {CORE}/32 dev lo\n")

    def processes(self) -> list[subprocess.Popen[Any]]:
        return self._lines + [process for host in self._hosts for process in host.processes]

    def home(self, kind: str, num_hosts: int = 1, delay_ms: float = 0) -> Host:
        """Its first host; `delay_ms`: one way, on its line to the core."""
        assert self._num_homes < MAX_HOMES, "a lab has no more networks"
        self._num_homes += 1
        number = self._num_homes
        if kind in ("public", "fw"):
            assert num_hosts == 1, "a public address is of one host"
            host = Host(self._node(), _public_ip(number), f"2a11:{number:x}::10", _public_ip(number), CORE)
            self._connect(host.namespace, "eth0", number, delay_ms)
            configure(host.namespace, f"addr add {host.ip6}/128 dev eth0\n")
            if kind == "fw":
                _nft(host.namespace, FIREWALL)
            self._hosts.append(host)
            return host
        hosts = self._behind_router(KINDS[kind], number, num_hosts, delay_ms)
        self._hosts += hosts
        hosts[0].others = hosts[1:]
        return hosts[0]

    def _behind_router(self, kind: Kind, number: int, num_hosts: int, delay_ms: float) -> list[Host]:
        public_ip, outside, carrier = _public_ip(number), _public_ip(number), ""
        router = self._node(forwards=True)
        if kind.carrier is None:
            self._connect(router, "wan", number, delay_ms)
        else:
            carrier, outside = self._node(forwards=True), f"100.64.{number}.2"
            self._connect(carrier, "wan", number, delay_ms)
            self._wire(carrier, "lan", router, "wan", 0)
            _route_down(carrier, "lan", number, outside)
            _route_up(router, "wan", outside, f"100.64.{number}.1")
            configure(carrier, f"addr add 100.64.{number}.1/32 dev lan\n")
            _nft(carrier, carrier_rules(kind, public_ip))
        net6 = f"2a11:{number:x}:0:1:"
        configure(
            router,
            f"link add lan type bridge\nlink set lan up\naddr add 192.168.1.1/24 broadcast + dev lan\n"
            f"addr add {net6}:1/64 dev lan nodad\n",
        )
        hosts = []
        for index in range(num_hosts):
            own, own6 = f"192.168.1.{10 + index}", f"{net6}:{10 + index}"
            host = Host(self._node(), own, own6, public_ip, "192.168.1.1", router, carrier)
            self._plug(host, index)
            hosts.append(host)
        _nft(router, router_rules(kind, outside, hosts[0].ip))
        return hosts

    def unplug(self, host: Host) -> None:
        """It leaves its home, without a word to anybody."""
        ip("-n", host.namespace, "link", "del", "eth0")

    def plug(self, host: Host, home: Host) -> None:
        """It comes into another home, of one of `home` and those that are there, as one more."""
        index = 1 + len(home.others)
        home.others.append(host)
        host.ip, host.ip6 = f"192.168.1.{10 + index}", f"{home.ip6.rpartition(':')[0]}:{10 + index}"
        host.public_ip, host.router, host.carrier = home.public_ip, home.router, home.carrier
        self._plug(host, index)

    def _plug(self, host: Host, index: int) -> None:
        """Into its router."""
        self._wire(host.router, f"port{index}", host.namespace, "eth0", 0)
        configure(host.router, f"link set port{index} master lan\n")
        host.configure(
            f"addr add {host.ip}/24 broadcast + dev eth0\nroute add default via {host.gateway}\n"
            f"addr add {host.ip6}/64 dev eth0 nodad\nroute add ::/0 via {host.ip6.rpartition(':')[0]}:1\n"
        )

    def _connect(self, node: str, interface: str, number: int, delay_ms: float) -> None:
        """To the core, with the public address and the IPv6 network of that number."""
        self._wire(self._core, f"line{number}", node, interface, delay_ms)
        _route_down(self._core, f"line{number}", number, _public_ip(number))
        _route_up(node, interface, _public_ip(number), CORE)

    def _node(self, forwards: bool = False) -> str:
        name = self._add()
        for which in ("all", "default"):
            sysctl(name, f"net/ipv6/conf/{which}/accept_dad", 0)
        if forwards:
            sysctl(name, "net/ipv4/ip_forward", 1)
            sysctl(name, "net/ipv6/conf/all/forwarding", 1)
        return name

    def _wire(self, one: str, if_one: str, other: str, if_other: str, delay_ms: float) -> None:
        if delay_ms:
            self._lines.append(delay.begin(one, if_one, other, if_other, delay_ms))
        else:
            ip("-n", one, "link", "add", if_one, "type", "veth", "peer", "name", if_other, "netns", other)
        ip("-n", one, "link", "set", if_one, "up")
        ip("-n", other, "link", "set", if_other, "up")


def _public_ip(number: int) -> str:
    return f"11.{number}.{number}.10"


def _route_down(node: str, interface: str, number: int, below: str) -> None:
    configure(
        node,
        f"addr add {_ABOVE}/64 dev {interface} nodad\nroute add {below} dev {interface}\n"
        f"route add 2a11:{number:x}::/48 via {_BELOW} dev {interface}\n",
    )


def _route_up(node: str, interface: str, own: str, above: str) -> None:
    configure(
        node,
        f"addr add {own}/32 dev {interface}\nroute add {above} dev {interface}\nroute add default via {above}\n"
        f"addr add {_BELOW}/64 dev {interface} nodad\nroute add ::/0 via {_ABOVE} dev {interface}\n",
    )


def _nft(node: str, rules: str) -> None:
    done = subprocess.run([*within(node), "nft", "-f", "-"], input=rules, capture_output=True, text=True)
    assert done.returncode == 0, f"nft in {node}: {done.stderr}\n{rules}"
