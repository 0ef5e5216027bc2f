"""Ten daemons, started in any order with one --join each, find one another, and outlive their bootstrap."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from random import Random

import pytest

from dsdnode.cli import control
from dsdnode.identity import load_or_create
from dsdnode.swarm.info import PeerInfo
from dsdnode.wire.joins import format_join
from dsdnode.wire.messages import Contact
from tests.node.processes import Daemon, run, swarm

pytestmark = pytest.mark.slow

FIND_S = 5.0
ROLES: list[tuple[str, ...]] = [("--role", "bootstrap"), *[("--role", "drafter")] * 3]
ROLES += [("--role", "shard", "--layers", layers) for layers in ("0:2", "2:4", "4:6", "6:8", "0:4", "4:8")]


def free_ports(count: int) -> list[int]:
    """Nobody's for the moment: the daemons' join strings must be known before they run."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


async def providers_seen_by(daemon: Daemon) -> frozenset[str]:
    peers = await control.ask(daemon.data_dir, "peers", list[PeerInfo])
    return frozenset(peer.peer_id for peer in peers if peer.roles and peer.rtt_ms is not None)


async def seconds_until_all_see(daemons: list[Daemon], providers: frozenset[str], limit_s: float) -> float:
    """From now on; its own record counts for a node, too."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    waiting = list(daemons)
    async with asyncio.timeout(limit_s):
        while waiting:
            seen = await asyncio.gather(*(providers_seen_by(daemon) for daemon in waiting))
            waiting = [
                daemon
                for daemon, found in zip(waiting, seen, strict=True)
                if not found | {daemon.ready["peer_id"]} >= providers
            ]
    return loop.time() - begun


@pytest.mark.parametrize("seed", [1])
async def test_ten_daemons_find_one_another(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    ports = free_ports(10)
    joins = []
    for i, port in enumerate(ports):
        (tmp_path / f"n{i}").mkdir()
        identity = load_or_create(tmp_path / f"n{i}" / "identity.key")
        joins.append(format_join(Contact(identity.public_key, (f"tcp://127.0.0.1:{port}",))))
    order = list(range(1, 10))
    rng.shuffle(order)
    order.insert(0, 0)
    with swarm(tmp_path) as made:
        for num, i in enumerate(order):  # a tree: each joins one that was started before it
            join: tuple[str, ...] = ()
            if num:
                other = order[rng.randrange(num)]
                assert made.daemons[f"n{other}"].ready
                join = ("--join", joins[other])
            made.start(f"n{i}", *ROLES[i], *join, "--threads", "1", listen=f"tcp://127.0.0.1:{ports[i]}")
        daemons = [made.daemons[f"n{i}"] for i in range(10)]
        providers = frozenset(str(daemon.ready["peer_id"]) for daemon in daemons[1:])
        found_s = await seconds_until_all_see(daemons, providers, FIND_S)
        print(f"every node finds every provider {found_s:.2f} s after the last ready line")
        daemons[0].kill()
        await seconds_until_all_see(daemons[1:], providers, FIND_S)
        answer = run("run", "--join", daemons[3].join, "Ben has 3 apples and gets 4 more. How many?")
        assert answer.stdout.strip()
