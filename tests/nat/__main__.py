"""Homes in network namespaces: `python -m tests.nat kinds` looks at each kind of home from outside, and prints a table.

`homes` lets real daemons answer a prompt from behind their routers: after how many seconds, and where each is reached.
`moves` carries a laptop into another home while a reply goes on, as client, owner and stage, at once and after some
time without any network: a table of what becomes of the reply. It takes ten minutes.
`relays` kills the relay that a reply goes by way of, or has it lie, stall and read: a table of what becomes of it.
`table` plays a swarm in each situation that people's machines are in (or in those named): is it as it should be there?
`pipeline` has four homes answer, and beside them the same swarm without routers: whether it is right, and how fast.
`beside` says how much slower a relay's own replies are while it carries as much as it may.
`clean` removes what killed runs left. It takes root, `ip` and `nft`. Exit code 1: a home is not as its kind says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.nat import beside, homes, moves, pipeline, relays, table
from tests.nat.kinds import KINDS
from tests.nat.lab import lab
from tests.nat.look import Observers
from tests.nat.namespaces import clean, why_not
from tests.nat.situations import SITUATIONS

ROW = "| {:7} | {:52} | {:7} | {:10} | {:14} |"

IN_FOLDER = ("table", "pipeline", "beside")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kinds", "homes", "moves", "relays", *IN_FOLDER, "clean"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of table: {'; '.join(SITUATIONS)} (none: all)")
    parser.add_argument("--replies", type=int, default=50, metavar="N", help="of pipeline, beside: each side's")
    parser.add_argument("--folder", type=Path, help=f"of homes, {', '.join(IN_FOLDER)}: where data dirs and logs stay")
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
    if unknown := [name for name in options.names if options.what != "table" or name not in SITUATIONS]:
        parser.error(f"there is no {unknown[0]!r} here: see --help")
    if reason := why_not("nft"):
        print(reason, file=sys.stderr)
        return 2
    if options.what == "clean":
        print(f"removed: {', '.join(clean()) or 'nothing'}")
        return 0
    if options.what in ("homes", *IN_FOLDER):
        with tempfile.TemporaryDirectory() as temporary:
            return _in_folder(options, options.folder or Path(temporary))
    if options.what == "moves":
        offs_s = [float(one) for one in options.off.split(",")]
        return moves.main(options.roles.split(","), offs_s, options.homes.split(","), options.here, options.screens)
    if options.what == "relays":
        return relays.main(options.kinds.split(","), options.screens)
    return _kinds()


def _in_folder(options: argparse.Namespace, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    if options.what == "table":
        return table.main(folder, options.names)
    if options.what == "pipeline":
        return pipeline.main(folder, options.replies)
    return beside.main(folder, options.replies) if options.what == "beside" else homes.main(folder)


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
