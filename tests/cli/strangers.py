"""What strangers throw at a node's port: bytes, frames and floods, each until it is through or its time is up."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Iterator

import zmq
from zmq.utils import z85

from dsdnode.addresses import parse_address
from dsdnode.identity import Identity, curve_public_key
from dsdnode.wire.codec import MAX_FRAME_BYTES, MAX_HEADER_BYTES, encode
from dsdnode.wire.joins import parse_join
from dsdnode.wire.messages import Ping
from dsdnode.wire.replies import Cancel

THROW_S = 4.0
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15 + 32)
"""ZMTP 3.1's: after it, libzmq's CURVE parser reads what follows."""


def _deadline() -> Callable[[], bool]:
    end = time.monotonic() + THROW_S
    return lambda: time.monotonic() > end


@contextlib.contextmanager
def _stranger(join: str, curve: bool = True) -> Iterator[zmq.Socket[bytes]]:
    """A bare libzmq socket dialling the node; with `curve`, past its encryption under its own key, but no HELLO."""
    contact, mallory = parse_join(join), Identity.generate()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.SNDTIMEO, 250)
    if curve:
        dealer.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(curve_public_key(contact.public_key)))
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(mallory.curve_public_key))
        dealer.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(mallory.curve_secret_key))
    dealer.connect(contact.addresses[0])
    try:
        yield dealer
    finally:
        context.destroy(0)


def _throw(dealer: zmq.Socket[bytes], frames: list[bytes]) -> int:
    """How many bytes libzmq took from us (0: the node keeps us waiting)."""
    try:
        dealer.send_multipart(frames)
    except zmq.Again:
        return 0
    return sum(map(len, frames))


def raw_bytes(join: str) -> int:
    """Plain TCP: noise, with and without a greeting, on connections that come and go."""
    host, port = parse_address(parse_join(join).addresses[0])
    late, sent = _deadline(), 0
    while not late() and sent < 256 << 20:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1) as line:
            for piece in (random.choice((b"", GREETING)), *([os.urandom(1 << 16)] * 16)):
                line.sendall(piece)
                sent += len(piece)
    return sent


def silent_connections(join: str) -> int:
    """Five hundred connections that never say anything."""
    host, port = parse_address(parse_join(join).addresses[0])
    late = _deadline()
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection((host, port), timeout=1))
            if late():
                break
    return 0


def without_curve(join: str) -> int:
    """libzmq without a key: nothing must come through its handshake."""
    late, sent = _deadline(), 0
    with _stranger(join, curve=False) as dealer:
        while not late() and sent < 64 << 20:
            sent += _throw(dealer, [os.urandom(1 << 20)])
    return sent


def garbage_frames(join: str) -> int:
    """Past CURVE: noise in every shape that a message can have, and messages of somebody who has not said HELLO."""
    deep, wide = b"\x91" * MAX_HEADER_BYTES, b"\xdd\xff\xff\xff\xff"
    shapes = (
        [b""],
        [b""] * 2000,
        [os.urandom(100)],
        [os.urandom(1000)] * 8,
        [deep],
        [wide],
        [bytes(MAX_HEADER_BYTES + 1)],
        list(encode(Cancel(bytes(16)))),
        list(encode(Ping(), request_id=1)),
    )
    late, sent = _deadline(), 0
    with _stranger(join) as dealer:
        while not late():
            for frames in shapes:
                sent += _throw(dealer, frames)
    return sent


def largest_frames(join: str) -> int:
    """Frames as large as they may be, many to a message, from somebody who has not said HELLO."""
    late, sent, piece = _deadline(), 0, bytes(MAX_FRAME_BYTES)
    with _stranger(join) as dealer:
        while not late():
            sent += _throw(dealer, [piece] * 4)
    return sent


def oversized_frames(join: str) -> int:
    """Frames of one byte more, then of 64 MiB: each ends its connection."""
    late, sent = _deadline(), 0
    for size_bytes in (MAX_FRAME_BYTES + 1, 64 << 20) * 4:
        if late():
            break
        with _stranger(join) as dealer:
            sent += _throw(dealer, [bytes(size_bytes)])
            time.sleep(0.2)  # nothing would tell us that it was dropped: the socket dials again by itself
    return sent


def endless_message(join: str) -> int:
    """One message of frames without end: refused when whole, but it never is (libzmq keeps what comes until then)."""
    piece, num_pieces = bytes(1 << 20), 1500
    with _stranger(join) as dealer:
        monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        for _ in range(num_pieces):
            dealer.send(piece, zmq.SNDMORE, copy=False)
        dealer.send(b"")  # only now does our own libzmq begin to send
        monitor.poll(int(3e3 * THROW_S))
        dealer.disable_monitor()
        monitor.close(0)
    return num_pieces * len(piece)


def nothing(join: str) -> int:
    """What the others are to be compared with."""
    return 0


ATTACKS = (
    nothing,
    raw_bytes,
    silent_connections,
    without_curve,
    garbage_frames,
    largest_frames,
    oversized_frames,
    endless_message,
)
