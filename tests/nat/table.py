"""Does it work there? `python -m tests.nat table [NAME ...]`: a swarm of real daemons in each situation, and who asks.

One row a situation: by which way each member is reached and after how many seconds, and after how many a client in each
place reads the first of its reply. Exit code 1: somebody is not reached, or does not get what all others get.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.nat.lab import lab
from tests.nat.people import Member, Reply, ask, begin, hops, until_complete, until_reached
from tests.nat.situations import FIRST, PORT, SITUATIONS, WORDS, Layout
from tests.node.processes import Swarm, swarm

REACHED_S = 20.0
ANSWER_S = 15.0
HEAD = (
    "| situation | drafter | shard 0:4 | shard 4:8 | usable s | first token s, by client | as it should be |\n"
    "|---|---|---|---|---|---|---|"
)


def main(folder: Path, names: Sequence[str]) -> int:
    status, expected = 0, ""
    print(HEAD, flush=True)
    for name in names or SITUATIONS:
        with lab() as town, swarm(_made(folder / name.replace(" ", "-"))) as people:
            layout = SITUATIONS[name](town)
            with known_by_name(layout):
                row = play(layout, people)
        expected = expected or next((reply.text for reply in row.replies.values()), "")
        status |= tell(name, row, expected)
    return status


def _made(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@dataclass
class Row:
    members: list[Member]
    replies: dict[str, Reply]
    hops: list[str]
    usable_s: float
    """From the first start until the drafter knew of a pipeline that answered; 0: never."""


def play(layout: Layout, people: Swarm) -> Row:
    members = list(_begin(layout, people))
    begun_s = members[0].begun_s
    asyncio.run(until_reached(members, REACHED_S))
    is_usable = asyncio.run(until_complete(members[1], REACHED_S))
    usable_s = time.monotonic() - begun_s if is_usable else 0.0
    join = _told(layout, members[0] if layout.join is not None else members[-1])
    replies = {
        client: ask(host, join, people.folder / f"client-{index}", patience_s=ANSWER_S)
        for index, (client, host) in enumerate(layout.clients.items())
    }
    asyncio.run(until_reached(members, 0))
    return Row(members, replies, hops(members), usable_s)


def _begin(layout: Layout, people: Swarm) -> Iterator[Member]:
    """Those who are told of the first one wait for it."""
    for name, host in layout.strangers.items():
        words = ("--role", "bootstrap", "--swarm-key", f"the key of {name}, long enough")
        begin(people, host, name, *words, listen=f"tcp://0.0.0.0:{PORT}")
    first: Member | None = None
    for name, host in layout.members.items():
        join = ("--join", _told(layout, first)) if first is not None and layout.join is not None else ()
        member = begin(people, host, name, *WORDS[name], *layout.more.get(name, ()), *join)
        member.num_others = len(layout.members) - 1 if layout.join is None else 0
        first = first or member
        yield member


def _told(layout: Layout, member: Member) -> str:
    if not layout.join:
        return member.daemon.join
    return f"dsd://{layout.join}:{PORT}/{member.daemon.join.rpartition('/')[2]}"


@contextmanager
def known_by_name(layout: Layout) -> Iterator[None]:
    """Every host's /etc/hosts, while the context lasts: `ip netns exec` puts what it finds there in place."""
    hosts = [*layout.members.values(), *layout.clients.values()] if layout.names else []
    folders = [Path("/etc/netns", host.namespace) for host in hosts]
    text = "".join(f"{ip} {name}\n" for name, ip in {"localhost": "127.0.0.1", **layout.names}.items())
    try:
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(text)
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def tell(name: str, row: Row, expected: str) -> bool:
    """Prints it. Is anything wrong?"""
    wrong = [f"{one.name} is not reached" for one in row.members if not one.reached_s]
    wrong += [f"{one.name} has not met all others" for one in row.members if not one.met_s]
    wrong += ["nobody knows of a pipeline"] * (not row.usable_s)
    wrong += [f"{client} reads {reply.text!r}" for client, reply in row.replies.items() if reply.text != expected]
    cells = [f"{one.path} {one.reached_s:.1f}" for one in row.members if one.name != FIRST]
    firsts = ", ".join(f"{client} {reply.first_s:.1f}" for client, reply in row.replies.items())
    print(f"| {name} | {' | '.join(cells)} | {row.usable_s:.1f} | {firsts} | {'; '.join(wrong) or 'yes'} |", flush=True)
    if wrong:
        _explain(row)
    return bool(wrong)


def _explain(row: Row) -> None:
    for one in row.members:
        print(f"\n--- {one.name}: {one.reach}\n{one.last_words}")
    for client, reply in row.replies.items():
        print(f"\n--- client {client}: exit {reply.code}, {reply.text!r}\n{reply.said}")
    print(f"\n--- connections: {', '.join(row.hops)}\n", flush=True)
