"""A line that takes its time: frames between two TAP devices, each way some milliseconds late, in their order.

A process of its own, which ends with the one that began it. For kernels without netem.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from tests.nat.namespaces import inside

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_FRAME_BYTES = 65536
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_PR_SET_PDEATHSIG = 1


def begin(one: str, if_one: str, other: str, if_other: str, delay_ms: float) -> subprocess.Popen[str]:
    """The process that carries; both interfaces are there when this returns."""
    words = [sys.executable, "-m", "tests.nat.delay", one, if_one, other, if_other, str(delay_ms)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n", "the line did not come up"
    return process


def _tap(namespace: str, name: str) -> int:
    with inside(namespace):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return device


def _carry(ends: tuple[int, int], delay_s: float) -> None:
    late: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait_s = max(0.0, late[0][0] - time.monotonic()) if late else None
        readable, _, _ = select.select(ends, [], [], wait_s)
        for source in readable:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = os.read(source, MAX_FRAME_BYTES)
                    late.append((time.monotonic() + delay_s, ends[source == ends[0]], frame))
        while late and late[0][0] <= time.monotonic():
            _, target, frame = late.popleft()
            with contextlib.suppress(OSError):  # the other end is down
                os.write(target, frame)


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    one, if_one, other, if_other, delay_ms = sys.argv[1:]
    ends = (_tap(one, if_one), _tap(other, if_other))
    print("up", flush=True)
    _carry(ends, float(delay_ms) / 1000)


if __name__ == "__main__":
    main()
