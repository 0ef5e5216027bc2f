"""What mallory tries with other people's calls and relays, in a town of real nodes: how far each attack gets.

Carol is reached and relays, bob is at home behind a router, and reached by way of carol; both are processes of
relayed.py. Mallory has a public address. Each victim has another one, and nothing to do with any of them: its kernel
counts who calls it. Limits are those of net/dials.py and net/relay/book.py; each has a guard, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog

from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import DsdError
from dsdnode.identity import Identity
from dsdnode.net.dials import PER_TEACHER_AND_TARGET
from dsdnode.net.relay import frames
from dsdnode.net.relay.book import Limits
from dsdnode.net.relay.frames import Accept, Challenge, Greet
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.visits import PER_NETWORK
from dsdnode.wire.messages import Announce, Contact, FindMe, FindRelay, Message, RelayAt, Visit
from dsdnode.wire.paths import FindPath, Punch, PunchNow
from dsdnode.wire.records import sign_record
from tests.nat.lab import Host, lab
from tests.nat.namespaces import within
from tests.nat.relayed import PORT, identity_of
from tests.nat.test_transports import at
from tests.net.relay.bench import ask
from tests.node.mutation import ROOT
from tests.swarm.test_homes import offer

NUM = 60
"""Attempts of each attack on a victim."""
AT_ONCE = 10
ASK_S = 8.0
LATER_S = 2.0
"""What is under way still gets there."""
NUM_CIRCUITS = 40
SOON_S = 2.0
COUNT = """
table inet count {
    counter calls {
    }
    counter taken {
    }
    chain input {
        type filter hook input priority -10;
        tcp flags & (syn | ack) == syn counter name "calls"
        counter name "taken"
    }
}
"""


@dataclass
class Scene:
    mallory: Rpc
    key: Identity
    home: Host
    victims: list[Host]
    """Each attack has the next one, for calls of one are counted together, whoever has named it."""
    carol: bytes
    bob: bytes
    relay: tuple[str, int]
    """Where it is asked, by its host and port."""
    bobs: tuple[str, int]
    """Where bob is called by way of it."""

    @property
    def victim(self) -> Host:
        return self.victims[0]

    def at_victim(self, number: int) -> str:
        return f"tcp://{self.victim.public_ip}:{30000 + number}"

    def counted(self) -> tuple[int, int]:
        """Calls of the victim, and bytes that it got."""
        words = [*within(self.victim.namespace), "nft", "-j", "list", "counters"]
        listed = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["nftables"]
        found = {one["counter"]["name"]: one["counter"] for one in listed if "counter" in one}
        return found["calls"]["packets"], found["taken"]["bytes"]


@dataclass(frozen=True)
class Told:
    attack: str
    tried: int
    came_of_it: str
    may_be: str
    holds: bool


# --- others are to call the victim


async def _all(scene: Scene, one: Callable[[int], Awaitable[object]]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def attempt(number: int) -> None:
        async with slots:
            with contextlib.suppress(DsdError):
                await one(number)

    await asyncio.gather(*map(attempt, range(NUM)))


async def weapon(scene: Scene, attack: str, most: int, one: Callable[[int], Awaitable[object]]) -> Told:
    before = scene.counted()
    await _all(scene, one)
    await asyncio.sleep(LATER_S)
    calls, num_bytes = (now - then for now, then in zip(scene.counted(), before, strict=True))
    scene.victims.append(scene.victims.pop(0))
    return Told(attack, NUM, f"{calls} calls of the victim, {num_bytes} bytes", f"{most} calls", calls <= most)


async def weapons(scene: Scene) -> list[Told]:
    def asks(peer: bytes, make: Callable[[int], Message]) -> Callable[[int], Awaitable[object]]:
        return lambda number: scene.mallory.request(peer, make(number), timeout_s=ASK_S)

    async def announce(number: int) -> None:
        contact = Contact(scene.key.public_key, (scene.at_victim(number),))
        signed = sign_record(scene.key, offer(contact))
        await scene.mallory.request(scene.carol, Announce(MODELS_KEY), [signed], timeout_s=ASK_S)

    async def visit(number: int) -> None:
        scene.mallory.notify(scene.carol, Visit(scene.key.public_key, scene.at_victim(number)))

    async def punch(number: int) -> None:
        ports = tuple(30000 + number + more for more in range(4))
        await scene.mallory.request(scene.bob, Punch(scene.victim.public_ip, ports, "", False), timeout_s=ASK_S)
        scene.mallory.notify(scene.bob, PunchNow())

    few = 2 * PER_TEACHER_AND_TARGET
    """In a minute; these take a part of one, and each counts for the same."""
    return [
        await weapon(
            scene, "asks whether it is reached there", few, asks(scene.carol, lambda n: FindMe((scene.at_victim(n),)))
        ),
        await weapon(scene, "announces that it is there", few, announce),
        await weapon(scene, "sends a visitor there", 2 * PER_NETWORK, visit),
        await weapon(scene, "is called back there", few, asks(scene.bob, lambda n: FindPath((scene.at_victim(n),)))),
        await weapon(scene, "is to be met there (each 4 ports)", 4 * few, punch),
    ]


# --- the relay


def _closed_s(scene: Scene, said: bytes, patience_s: float) -> tuple[float | None, int]:
    """After how many seconds the relay hangs up (None: it does not), and what it has said by then, in bytes."""
    with scene.home.inside():
        one = socket.create_connection(scene.relay, timeout=patience_s)
    began_s, num = time.monotonic(), 0
    with one:
        with contextlib.suppress(ConnectionError):
            one.sendall(said)
        try:
            while heard := one.recv(1 << 16):
                num += len(heard)
        except TimeoutError:
            return None, num
        except ConnectionError:
            pass
        return time.monotonic() - began_s, num


def preamble(scene: Scene, attack: str, said: bytes, within_s: float) -> Told:
    after_s, num = _closed_s(scene, said, within_s + 5)
    came = f"{num} bytes said, " + ("kept" if after_s is None else f"closed after {after_s:.1f} s")
    return Told(attack, 1, came, f"0 bytes, {within_s:g} s", num == 0 and after_s is not None and after_s <= within_s)


def token(scene: Scene) -> Told:
    made_up = os.urandom(16)
    carols = identity_of("carol").public_key
    said = frames.pack(Accept(made_up, scene.key.sign(frames.to_accept(carols, made_up))))
    return preamble(scene, "takes a circuit by a token of its own", said, SOON_S)


def anothers_name(scene: Scene) -> Told:
    """Bob's key, and mallory's signature."""
    bob, carols = identity_of("bob"), identity_of("carol").public_key
    with scene.home.inside():
        control = socket.create_connection(scene.relay, timeout=ASK_S)
    with control:
        challenge = ask(control, Greet(frames.RELAY_VERSION), Challenge)
        assert isinstance(challenge, Challenge)
        forged = frames.reserve(scene.key, (), carols, challenge.challenge)
        control.sendall(frames.pack(msgspec.structs.replace(forged, public_key=bob.public_key)))
        with contextlib.suppress(ConnectionError, TimeoutError):
            if control.recv(1 << 10):
                return Told("reserves in bob's name", 1, "an answer", "none", False)
    return Told("reserves in bob's name", 1, "closed without a word", "none", True)


async def circuits(scene: Scene) -> Told:
    """All at once; those that still stand after a moment carry something."""
    with scene.home.inside():
        ones = [socket.create_connection(scene.bobs, timeout=ASK_S) for _ in range(NUM_CIRCUITS)]
    await asyncio.sleep(3 * SOON_S)
    num = 0
    for one in ones:
        one.setblocking(False)
        try:
            num += one.recv(1) != b""
        except BlockingIOError:
            num += 1
        except OSError:
            pass
        one.close()
    most = min(Limits.circuits_per_caller, Limits.circuits_per_callee)
    return Told("takes all circuits to bob, from one address", NUM_CIRCUITS, f"{num} stand", f"{most}", num <= most)


# --- all of it


async def play() -> list[Told]:
    with lab() as town:
        carol, bob, mallory = (town.home(one) for one in ("public", "prc", "public"))
        victims = [town.home("public") for _ in range(5)]
        for victim in victims:
            await asyncio.to_thread(_count, victim)
        carols = f"tcp://{carol.public_ip}:{PORT}"
        processes = [_begin(carol, "carol"), _begin(bob, "bob", carols)]
        bobs = [await asyncio.to_thread(process.stdout.readline) for process in processes][-1].split()
        key, honest = Identity(b"m" * 32), Identity(b"h" * 32)
        rpc, friend = await at(mallory, key), await at(town.home("public"), honest)
        where = next(one for one in bobs if carol.public_ip in one)
        for one in (rpc, friend):
            one.transport.introduce(Contact(identity_of("carol").public_key, (carols,)))
            one.transport.introduce(Contact(identity_of("bob").public_key, (where,)))
        at_relay, _ = await rpc.request(identity_of("carol").peer_id, FindRelay(), timeout_s=ASK_S)
        assert isinstance(at_relay, RelayAt)
        members = identity_of("carol").peer_id, identity_of("bob").peer_id
        bobs_port = int(where.rpartition(":")[2])
        relay, called = (carol.public_ip, at_relay.port), (carol.public_ip, bobs_port)
        scene = Scene(rpc, key, mallory, victims, *members, relay, called)
        told = await weapons(scene)
        told += [
            await asyncio.to_thread(preamble, scene, attack, said, within_s)
            for attack, said, within_s in (
                ("says nothing to the relay", b"", 5 + SOON_S),
                ("says half a frame", frames.pack(Greet(frames.RELAY_VERSION))[:3], 5 + SOON_S),
                ("says HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", SOON_S),
                ("says random bytes", os.urandom(256), SOON_S),
                ("says a frame of 60,000 bytes", (60_000).to_bytes(2, "big") + bytes(60_000), SOON_S),
            )
        ]
        told += [token(scene), anothers_name(scene), await circuits(scene)]
        took_s = await friend.ping(identity_of("bob").peer_id, timeout_s=ASK_S)
        told.append(Told("(a friend calls bob meanwhile)", 1, f"answered after {took_s:.1f} s", "an answer", True))
        for one in (rpc, friend):
            await one.close()
        return told


def _count(victim: Host) -> None:
    subprocess.run([*within(victim.namespace), "nft", "-f", "-"], input=COUNT, text=True, check=True)


def _begin(host: Host, name: str, *words: str) -> subprocess.Popen[str]:
    return host.popen(
        *(sys.executable, "-m", "tests.nat.relayed", name, *words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def main() -> int:
    """Exit code 1: an attack gets further than it may."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    told = asyncio.run(play())
    print("| mallory | attempts | what came of it | may be at most | as it should be |\n|---|---|---|---|---|")
    for one in told:
        print(f"| {one.attack} | {one.tried} | {one.came_of_it} | {one.may_be} | {'yes' if one.holds else 'NO'} |")
    return int(not all(one.holds for one in told))
