"""Homes in network namespaces: `python -m tests.nat kinds` looks at each kind of home from outside, and prints a table.

`reached` has a node behind each (or behind those named) find out what its router does, and where others reach it.
`homes` lets real daemons answer a prompt from behind their routers: after how many seconds, and where each is reached.
`pairs` links peers of each two kinds, or of the two that are named: how, and after how long.
`clients` asks somebody at home from each kind of home: how that client is linked to him at first, and in the end.
`usable` starts one in each kind of home: after how many seconds others can use it, and what it says until then.
`doctor` has `dsdnode doctor` look at twenty set-ups, most of them broken, and says whether it is right.
`table` plays a swarm in each situation that people's machines are in (or in those named): is it as it should be there?
`pipeline` has four homes answer, and beside them the same swarm without routers: whether it is right, and how fast.
`beside` says how much slower a relay's own replies are while it carries as much as it may.
`moves` carries a laptop into another home while a reply goes on, as client, owner and stage, at once and after some
time without any network: a table of what becomes of the reply. It takes ten minutes.
`relays` kills the relay that a reply goes by way of, or has it lie, stall and read: a table of what becomes of it.
`newcomers` has four machines come to one that has a model, with one line each: who takes what, and after how long
there is a reply.
`abuse` has a stranger try what nodes and relays do on a stranger's word: a table of how far each attack gets.
`clean` removes what killed runs left. It takes root, `ip` and `nft`. Exit code 1: something is not as it should be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.nat import (
    abuse,
    beside,
    clients,
    doctors,
    homes,
    moves,
    newcomers,
    pairs,
    pipeline,
    reached,
    relays,
    table,
    usable,
)
from tests.nat.kinds import KINDS
from tests.nat.lab import lab
from tests.nat.look import Observers
from tests.nat.namespaces import clean, why_not
from tests.nat.situations import SITUATIONS

OF_KINDS = "pairs", "clients", "reached"
"""Whose names are kinds of homes."""
ROW = "| {:7} | {:52} | {:7} | {:10} | {:14} |"

WHAT: dict[str, Callable[[argparse.Namespace], int]] = {
    "kinds": lambda options: _kinds(),
    "reached": lambda options: reached.main(options.names),
    "homes": lambda options: homes.main(options.folder),
    "pairs": lambda options: pairs.main(options.names),
    "clients": lambda options: clients.main(options.names),
    "usable": lambda options: usable.main(options.folder, options.all),
    "doctor": lambda options: doctors.main(options.folder, options.all),
    "table": lambda options: table.main(options.folder, options.names),
    "pipeline": lambda options: pipeline.main(options.folder, options.replies),
    "beside": lambda options: beside.main(options.folder, options.replies),
    "moves": lambda options: moves.main(
        options.roles.split(","),
        [float(one) for one in options.off.split(",")],
        options.homes.split(","),
        options.here,
        options.screens,
    ),
    "relays": lambda options: relays.main(options.kinds.split(","), options.screens),
    "newcomers": lambda options: newcomers.main(options.folder, options.model, options.draft, options.hub),
    "abuse": lambda options: abuse.main(),
    "clean": lambda options: _clean(),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of pairs and clients: two kinds; of reached: some; of table: {'; '.join(SITUATIONS)}; none: all",
    )
    parser.add_argument("--replies", type=int, default=50, metavar="N", help="of pipeline, beside: each side's")
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
    parser.add_argument("--model", type=Path, help="of newcomers: a GGUF (the demo's)")
    parser.add_argument("--hub", action="store_true", help="of newcomers: a hub has the model, too")
    parser.add_argument("--draft", type=Path, help="of newcomers: a draft model for it, that the first one has")
    parser.add_argument("--screens", action="store_true", help="of moves, relays: show all that was seen")
    options = parser.parse_args()
    known = list(SITUATIONS) if options.what == "table" else [*KINDS, clients.V6] if options.what in OF_KINDS else []
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"there is no {unknown[0]!r} here: see --help")
    if options.what in ("pairs", "clients") and len(options.names) not in (0, 2):
        parser.error(f"two of {', '.join(KINDS)}, or none")
    if reason := why_not("nft"):
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return WHAT[options.what](options)


def _clean() -> int:
    print(f"removed: {', '.join(clean()) or 'nothing'}")
    return 0


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
