"""What goes wrong, and what the user sees of it: `python -m tests.troubles [NAME ...]`.

Each trouble befalls a swarm of real daemons, each in a network of its own (namespaces of this machine, so it takes
root), while somebody asks at a terminal of 80 columns. Prints a table: after how many seconds the first word came and
the end, the exit code, whether the text so far was kept, and what was said. Exit code 1: something is not as it should
be, and the table says what. All of them take some ten minutes, NUM_AT_ONCE at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.nat.namespaces import why_not
from tests.troubles.cases import SIGN_S, TROUBLES, Trouble
from tests.troubles.scene import Seen, scene

NUM_AT_ONCE = 3
"""Most of their time they wait."""
COLUMNS = (
    "| trouble | first word s | end s | exit | text kept | first words | last words | as it should be |\n"
    "|---|---|---|---|---|---|---|---|"
)


class Told(msgspec.Struct, frozen=True):
    row: str
    wrong: str
    screen: str


def play(name: str) -> Told:
    """In this process."""
    trouble = TROUBLES[name]
    with tempfile.TemporaryDirectory() as folder, scene(Path(folder)) as there:
        seen = trouble.play(there)
    wrong = "; ".join(faults(trouble, seen, there.peers))
    texts = (_cell(seen.first_words, there.peers), _cell(seen.last_words, there.peers))
    kept = ("yes" if seen.kept else "no") if seen.before else "-"
    row = " | ".join((name, _s(seen.first_s), _s(seen.end_s), str(seen.code), kept, *texts, wrong or "yes"))
    return Told(f"| {row} |", wrong, seen.screen)


def faults(trouble: Trouble, seen: Seen, peers: dict[str, str]) -> list[str]:
    """What of it is not as it should be, in words."""
    names = [word.format(**peers) for word in trouble.names]
    said = "".join(seen.screen.split())  # a terminal breaks lines where they are full
    found = [f"{word} is not named" for word in names if "".join(word.split()) not in said]
    if seen.code != trouble.code:
        found.append(f"exit {seen.code}, not {trouble.code}")
    if seen.end_s is None or seen.end_s > trouble.within_s:
        found.append("it takes too long")
    if not trouble.may_be_silent and (seen.first_s is None or seen.first_s > SIGN_S):
        found.append("no word in time")
    if not seen.kept:
        found.append("text is lost")
    return found


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def _cell(words: str, peers: dict[str, str]) -> str:
    for name, peer in peers.items():
        words = words.replace(peer, f"<{name}>")
    return words.replace("|", "/") or "-"


async def apart(name: str, at_once: asyncio.Semaphore) -> Told:
    """In a process of its own: namespaces bear its number."""
    async with at_once:
        command = (sys.executable, "-m", "tests.troubles", "--here", name)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
        lines = output.splitlines()
        if process.returncode or not lines:
            told = Told(f"| {name} | - | - | - | - | - | - | it could not be played |", "not played", "")
        else:
            told = msgspec.json.decode(lines[-1], type=Told)
        print(told.row, flush=True)
        return told


async def play_all(names: list[str]) -> list[Told]:
    at_once = asyncio.Semaphore(NUM_AT_ONCE)
    return await asyncio.gather(*(apart(name, at_once) for name in names))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TROUBLES)}; none: all of them")
    parser.add_argument("--here", action="store_true", help="one of them, in this process; prints JSON")
    parser.add_argument("--screens", action="store_true", help="show below the table all that was seen")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in TROUBLES]:
        parser.error(f"no such trouble: {', '.join(unknown)}")
    if reason := why_not():
        parser.error(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # namespaces do not end with their maker
    if options.here:
        print(msgspec.json.encode(play(options.names[0])).decode(), flush=True)
        return 0
    print(COLUMNS, flush=True)
    told = asyncio.run(play_all(options.names or [*TROUBLES]))
    if options.screens:
        for one in told:
            print(f"\n{one.row}\n{one.screen}")
    return int(any(one.wrong for one in told))


if __name__ == "__main__":
    sys.exit(main())
