"""From nothing: five machines, of which one has the model, and four type one line: `python -m tests.nat newcomers`.

Each machine is a host of its own in the lab, and gives others 100 Mbit/s at most. The model is a file that the first
one has; with `--hub` it is also at a hub, behind a line of 100 Mbit/s that all who fetch from it share. The four start
at the same moment, each with memory for a quarter of the layers. Somebody asks at once, and waits. Then one whose
layers nobody else has leaves, and another one comes. Exit code 1: no reply.

A table of who took what, bytes by where they came from, seconds until the first reply, and what moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from pathlib import Path

from dsdnode.cli import render
from dsdnode.config import NodeConfig
from dsdnode.models import demo_draft, demo_target
from dsdnode.node.targets import Target
from tests.nat.lab import Host, Lab, lab
from tests.nat.people import Member, Reply, ask, begin
from tests.node.processes import Swarm, swarm
from tests.weights.hub import REPO, Hub

LINE_BYTES_PER_S = 100e6 / 8
GIVES = ("--max-upload", f"{LINE_BYTES_PER_S:.0f}B/s")
SHARE = 4
"""Newcomers, and into how many parts the model is cut."""
PATIENCE_S = 240.0


class TownHub(Hub):
    """The hub of tests/weights, on a host of the lab."""

    def __init__(self, host: Host, files: dict[str, bytes]) -> None:
        super().__init__(files)
        self._host = host
        self.bytes_per_s = LINE_BYTES_PER_S

    async def start(self) -> None:
        with self._host.inside():
            for answer in (self._front, self._back):
                self._servers.append(await asyncio.start_server(answer, self._host.ip, 0))

    @property
    def endpoint(self) -> str:
        return f"http://{self._host.ip}:{self._servers[0].sockets[0].getsockname()[1]}"

    @property
    def bytes_address(self) -> str:
        return f"http://{self._host.ip}:{self._servers[1].sockets[0].getsockname()[1]}"


def main(folder: Path, model: Path | None, draft: Path | None, with_hub: bool) -> int:
    file = folder / "model.gguf"
    data = model.read_bytes() if model else demo_target().read_bytes() + bytes(32)  # not the one that is bundled
    file.write_bytes(data)
    with lab() as town, swarm(folder) as people:
        hub = TownHub(town.home("public"), {file.name: data}) if with_hub else None
        return asyncio.run(_main(town, people, file, draft, hub))


async def _main(town: Lab, people: Swarm, file: Path, draft: Path | None, hub: TownHub | None) -> int:
    if hub is not None:
        await hub.start()
        os.environ.update(hub.env)
    memory, num_layers = await _size(people.folder, file, draft)
    own = ("--role", "drafter", *(("-md", str(draft)) if draft else ()))
    source = f"hf:{REPO}/{file.name}" if hub else str(file)
    first = ("--role", "shard", "-m", source, "--layers", f"0:{num_layers // SHARE}", "--yes", *GIVES)
    alice = begin(people, town.home("public"), "alice", *own, *first)
    join = await asyncio.to_thread(getattr, alice.daemon, "join")
    line = ("--join", join, "--yes", "--max-memory", f"{memory}B", *GIVES)
    began_s = time.monotonic()
    four = [begin(people, town.home("public"), name, *line) for name in ("bob", "carol", "dave", "erin")]
    reply = await _asked(town, people, join, "first")
    first_s = time.monotonic() - began_s
    for one in four:
        assert await asyncio.to_thread(getattr, one.daemon, "ready")
    size_mb = (await asyncio.to_thread(file.stat)).st_size / 1e6
    print(f"{size_mb:.1f} MB of model; {memory / 1e6:.0f} MB of memory each")
    print(_table([alice, *four]))
    print(f"first reply {first_s:.1f} s after the lines were typed, exit code {reply.code}")
    again = await _change(town, people, join, [alice, *four], line)
    if hub is not None:
        await hub.close()
    return int(bool(reply.code or again.code))


async def _change(town: Lab, people: Swarm, join: str, members: list[Member], line: tuple[str, ...]) -> Reply:
    """One leaves whose layers nobody else has, another one comes."""
    held = Counter(str(one.daemon.ready["layers"]) for one in members)
    leaving = next((one for one in members[1:] if held[str(one.daemon.ready["layers"])] == 1), members[-1])
    parts = {one.name: one.daemon.ready["layers"] for one in members if one is not leaving}
    leaving.daemon.process.terminate()
    await asyncio.to_thread(leaving.daemon.process.wait)
    began_s = time.monotonic()
    frank = begin(people, town.home("public"), "frank", *line)
    reply = await _asked(town, people, join, "again")
    took_s = time.monotonic() - began_s
    assert await asyncio.to_thread(getattr, frank.daemon, "ready")
    now = {one.name: (await asyncio.to_thread(one.daemon.status))["layers"] for one in members if one.name in parts}
    moved = ", ".join(name for name, layers in parts.items() if layers != now[name])
    print(f"{leaving.name} ({_span(leaving.daemon.ready['layers'])}) leaves, frank comes: {_part(frank)}")
    print(f"a reply {took_s:.1f} s after frank's line, exit code {reply.code}; others that moved: {moved or 'none'}")
    return reply


async def _asked(town: Lab, people: Swarm, join: str, name: str) -> Reply:
    """Somebody without a node asks again and again, until there is a reply."""
    client, until_s = town.home("public"), time.monotonic() + PATIENCE_S
    while True:
        reply = await asyncio.to_thread(ask, client, join, people.folder / f"asks {name}", patience_s=60.0)
        if not reply.code or time.monotonic() > until_s:
            return reply
        await asyncio.sleep(0.2)


async def _size(folder: Path, model: Path, draft: Path | None) -> tuple[int, int]:
    """Memory for a quarter of the layers, half a layer more, and the draft model where newcomers have it; layers."""
    config = NodeConfig(data_dir=folder / "look")
    target = await Target.read(config, model)
    needs, num_layers = target.needs(config), target.manifest.num_layers
    beside = 0
    if draft is None:
        one = await Target.read(config, demo_draft())
        beside = one.needs(config).of_layers(one.manifest.num_layers)
    return needs.of_layers(num_layers // SHARE) + needs.layer // 2 + beside, num_layers


def _table(members: list[Member]) -> str:
    rows = []
    for one in members:
        given = ", ".join(f"{source} {size / 1e6:.2f} MB" for source, size in _fetched(one).items())
        rows.append((one.name, "+".join(one.daemon.ready["roles"]), _span(one.daemon.ready["layers"]), given or "-"))
    return str(render.table(("WHO", "ROLES", "LAYERS", "FETCHED FROM"), rows))


def _fetched(member: Member) -> dict[str, int]:
    """By its log."""
    found: Counter[str] = Counter()
    for line in member.daemon.log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event.get("event") == "fetched":
                found.update(event["bytes_by_source"])
    return found


def _span(layers: list[int] | None) -> str:
    return f"{layers[0]}:{layers[1]}" if layers else "-"


def _part(member: Member) -> str:
    return f"{'+'.join(member.daemon.ready['roles'])} {_span(member.daemon.ready['layers'])}"
