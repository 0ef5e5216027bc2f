"""A member whose relay is no good one: `python -m tests.nat.liar KIND FOLDER start ...` is as `dsdnode start ...`.

Most are good ones until FOLDER/now is there. `stalls`: nothing is passed on any more, and everything stays open.
`halves`: half of the bytes are. `elsewhere`: from the start, callers get to somebody else who has a reservation.
`hides`: from the start, callers are said to be of the callee's own machine. `port`: from the start, callees are given
a port where nobody listens. `reads`: everything that is carried is in FOLDER/read, in order.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from dsdnode.cli.main import main
from dsdnode.net.relay import server
from dsdnode.net.relay.book import Book
from dsdnode.net.relay.connection import Connection
from dsdnode.net.relay.frames import Incoming, Reserved

KINDS = ("stalls", "halves", "elsewhere", "hides", "port", "reads")
_write, _dialled, _terms = Connection._write, server.Relay._dialled, Book.terms


def lie(kind: str, folder: Path) -> None:
    now, read = folder / "now", folder / "read"

    def write(self: Connection, data: bytes) -> None:
        if kind == "reads":
            with read.open("ab") as file:
                file.write(data)
        if kind == "halves" and now.exists():
            data = data[: len(data) // 2]
        if kind != "stalls" or not now.exists():
            _write(self, data)

    def dialled(self: server.Relay, connection: Connection, callee: Any) -> None:
        others = [one for one in self._controls if one is not callee]
        if kind != "elsewhere":
            _dialled(self, connection, callee)
        elif others:
            _dialled(self, connection, others[0])
        else:
            connection.drop()

    def terms(self: Book, port: int) -> Reserved:
        return _terms(self, port + 1 if kind == "port" else port)

    if kind == "hides":
        cast(Any, server).Incoming = lambda token, host: Incoming(token, "127.0.0.1")
    Connection._write, server.Relay._dialled, Book.terms = write, dialled, terms  # type: ignore[method-assign]


if __name__ == "__main__":
    kind, folder, *words = sys.argv[1:]
    lie(kind, Path(folder))
    sys.argv[1:] = words
    main()
