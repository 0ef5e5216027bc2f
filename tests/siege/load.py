"""A load that harms nobody: `python -m tests.siege.load SHARE` takes that much of a core until its input ends."""

from __future__ import annotations

import os
import sys
import threading
import time

from tests.siege.attacks import NICE

TURN_S = 0.05


def spin(share: float) -> None:
    while True:
        end_s = time.thread_time() + share * TURN_S
        while time.thread_time() < end_s:
            pass
        time.sleep((1 - share) * TURN_S)


def main() -> None:
    os.nice(NICE)
    threading.Thread(target=spin, args=(float(sys.argv[1]),), daemon=True).start()
    print("begun", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
