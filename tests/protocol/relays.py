"""Vectors of relays: alice's relay, where bob has a reservation, and somebody calls him."""

from __future__ import annotations

from typing import Any

from dsdnode.net.handshake import derive_swarm_key
from dsdnode.net.relay import frames
from dsdnode.net.relay.frames import Accept, Challenge, Frame, Greet, Incoming, No, Ok, Ping, Pong, Reserved
from tests.protocol.peers import SWARM_KEY, identity_of, spelled

CHALLENGE, TOKEN = bytes(range(32)), bytes(range(16))


def exchange() -> dict[str, Any]:
    relay, bob = (identity_of(name) for name in ("alice", "bob"))
    keys = (derive_swarm_key(SWARM_KEY),)
    told: list[tuple[Frame, bytes]] = [
        (Greet(frames.RELAY_VERSION), b""),
        (Challenge(frames.RELAY_VERSION, CHALLENGE, "198.51.100.20"), b""),
        (
            frames.reserve(bob, keys, relay.public_key, CHALLENGE),
            frames.to_reserve(relay.public_key, CHALLENGE, bob.public_key),
        ),
        (Reserved(41234, 3600, 16, 2_500_000, 1 << 30), b""),
        (Incoming(TOKEN, "2001:db8::30"), b""),
        (
            Accept(TOKEN, bob.sign(frames.to_accept(relay.public_key, TOKEN))),
            frames.to_accept(relay.public_key, TOKEN),
        ),
        (Ok(), b""),
        (No("all reservations are taken"), b""),
        (Ping(), b""),
        (Pong(), b""),
    ]
    about = "Section 15: alice relays, bob is the callee and has a swarm key."
    return {"about": about, "swarm_key": SWARM_KEY, "cases": [_case(*one) for one in told]}


def _case(frame: Frame, signed: bytes) -> dict[str, Any]:
    return {
        "frame": type(frame).__name__.lower(),
        "values": spelled(frame),
        "bytes": frames.pack(frame).hex(),
        "signed": signed.hex(),
    }
