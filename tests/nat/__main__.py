"""Homes in network namespaces: `python -m tests.nat kinds` looks at each kind of home from outside, and prints a table.

`reached` has a node behind each find out what its router does, and where others reach it.
`homes` lets real daemons answer a prompt from behind their routers: after how many seconds, and where each is reached.
`pairs` lets peers of each two kinds call each other: how they are linked in the end, and after how many milliseconds.
`moves` carries a laptop into another home while a reply goes on, as client, owner and stage, at once and after some
time without any network: a table of what becomes of the reply. It takes ten minutes.
`relays` kills the relay that a reply goes by way of, or has it lie, stall and read: a table of what becomes of it.
`usable` starts one in each kind of home: after how many seconds others can use it, and what it says until then.
`doctor` has `dsdnode doctor` look at twenty set-ups, most of them broken, and says whether it is right.
`clean` removes what killed runs left. It takes root, `ip` and `nft`. Exit code 1: a home is not as its kind says,
or was taken for another kind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.nat import doctors, homes, moves, pairs, reached, relays, usable
from tests.nat.kinds import KINDS
from tests.nat.lab import lab
from tests.nat.look import Observers
from tests.nat.namespaces import clean, why_not

ROW = "| {:7} | {:52} | {:7} | {:10} | {:14} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["kinds", "reached", "homes", "pairs", "usable", "doctor", "moves", "relays", "clean"]
    )
    parser.add_argument(
        "pair", nargs="*", metavar="KIND", help="of pairs: the caller's and the callee's; of reached: any; all if none"
    )
    parser.add_argument("--folder", type=Path, help="where data dirs and logs stay")
    parser.add_argument("--all", action="store_true", help="of usable and doctor: all that was said")
    parser.add_argument("--roles", default=",".join(moves.ROLES), help="of moves: who moves")
    parser.add_argument(
        "--off", default=",".join(f"{one:g}" for one in moves.OFF_S), help="of moves: s without network"
    )
    parser.add_argument(
        "--homes", default=",".join(moves.HOMES), help="of moves: kinds of the old home and the new one"
    )
    parser.add_argument("--here", action="store_true", help="of moves: one of them, in this process; prints JSON")
    parser.add_argument("--kinds", default=",".join(relays.KINDS), help="of relays: what they do")
    parser.add_argument("--screens", action="store_true", help="of moves, relays: show all that was seen")
    options = parser.parse_args()
    if reason := why_not("nft"):
        print(reason, file=sys.stderr)
        return 2
    if options.what == "clean":
        print(f"removed: {', '.join(clean()) or 'nothing'}")
        return 0
    if options.what == "kinds":
        return _kinds()
    if options.what == "reached":
        if unknown := [one for one in options.pair if one not in KINDS]:
            parser.error(f"no kind of home: {', '.join(unknown)} (there are {', '.join(KINDS)})")
        return reached.main(options.pair)
    if options.what == "pairs":
        if len(options.pair) not in (0, 2) or not KINDS.keys() >= set(options.pair):
            parser.error(f"two of {', '.join(KINDS)}, or none")
        return pairs.main(options.pair)
    if options.what == "moves":
        offs_s = [float(one) for one in options.off.split(",")]
        return moves.main(options.roles.split(","), offs_s, options.homes.split(","), options.here, options.screens)
    if options.what == "relays":
        return relays.main(options.kinds.split(","), options.screens)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if options.what == "homes":
            return homes.main(folder)
        return (usable.main if options.what == "usable" else doctors.main)(folder, options.all)


def _kinds() -> int:
    status = 0
    print(ROW.format("kind", "what", "mapping", "a stranger", "who was called"))
    print(ROW.format(*["---"] * 5))
    with lab() as town:
        observers = Observers(town)
        for name, kind in KINDS.items():
            look = observers.look(town.home(name))
            print(ROW.format(name, kind.what, look.mapping, look.stranger, look.known))
            if look != kind.look:
                print(f"{name} is not as its kind says: {kind.look}", file=sys.stderr)
                status = 1
        observers.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
