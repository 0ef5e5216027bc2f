"""How a pull fares at a hub with each of its faults: `python -m tests.weights.table [MODEL] [--layers 4:8]`.

For each: whether the bytes are right, how many the hub sent beside those that were needed, how long it took, and what
was said. Then pulls that are killed in the middle, of layers alone, beside a member that gives wrong bytes, of five
parts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dsdnode.cli.render import table
from dsdnode.config import parse_layers
from dsdnode.engine.gguf import cut
from dsdnode.engine.gguf_header import read_header
from dsdnode.engine.gguf_parts import open_model
from dsdnode.errors import DsdError
from dsdnode.models import demo_target
from dsdnode.weights.holdings import hashed
from dsdnode.weights.store import Store, size
from tests.engine.test_gguf_parts import split
from tests.weights.hub import REPO, Asked, Fault, Hub, hub_of
from tests.weights.test_members import Mallory, Town
from tests.weights.test_members import pull as pull_beside
from tests.weights.test_pull import SOURCE, Alice, broken, busy, dropped, elsewhere, none, short, silent, some, whole

NUM_PARTS = 5


def changed_bytes(hub: Hub) -> Fault:
    def fault(asked: Asked) -> None:
        data = hub.files[next(iter(hub.files))][asked.start : asked.end]
        asked.body = bytes([data[0] ^ 1]) + data[1:]

    return fault


def one_in(every: int, change: Fault) -> Callable[[Hub], None]:
    return lambda hub: hub.faults.append(some(1, every, change))


def expiring(hub: Hub) -> None:
    hub.link_uses = 3


TROUBLES: dict[str, Callable[[Hub], None]] = {
    "none": lambda hub: None,
    "links expire after 3 uses": expiring,
    "every 3rd body ends early": one_in(3, short),
    "every 3rd connection breaks": one_in(3, dropped),
    "every 5th body stalls": one_in(5, silent),
    "every 3rd answer: 200, all of it": one_in(3, whole),
    "every 3rd answer: another range": one_in(3, elsewhere),
    "every 3rd answer: 429": one_in(3, busy),
    "every 3rd answer: 500": one_in(3, broken),
    "one answer: wrong bytes": lambda hub: hub.faults.append(some(2, 1_000_000, changed_bytes(hub))),
    "nothing comes any more": one_in(1, none),
}


@dataclass
class Row:
    what: str
    is_right: bool | None
    """None: it ended in words."""
    sent_bytes: int
    needed_bytes: int
    took_s: float
    words: str


async def measured(what: str, hub: Hub, alice: Alice, pull: Awaitable[Path], like: bytes) -> Row:
    began, sent = asyncio.get_running_loop().time(), hub.sent_bytes
    path, words = None, ""
    try:
        path = await pull
    except DsdError as error:
        words = str(error)
    took_s = asyncio.get_running_loop().time() - began
    is_right = None if path is None else path.read_bytes() == like
    return Row(what, is_right, hub.sent_bytes - sent, len(like), took_s, words or (alice.said or [""])[-1])


async def faults(model: Path, folder: Path, mbit: float) -> list[Row]:
    rows, like = [], whole_of(model)
    for number, (what, prepare) in enumerate(TROUBLES.items()):
        async with hub_of(model) as hub:
            prepare(hub)
            hub.bytes_per_s = mbit * 1e6 / 8
            alice = Alice(Store(folder / str(number)))
            rows.append(await measured(what, hub, alice, alice.pull(hub), like))
    return rows


def whole_of(model: Path) -> bytes:
    return model.read_bytes()


async def killed(model: Path, folder: Path, mbit: float) -> Row:
    """By kill -9, when half of it is there."""
    like = whole_of(model)
    async with hub_of(model) as hub:
        hub.bytes_per_s = mbit * 1e6 / 8
        command = [sys.executable, "-m", "dsdnode.cli", "pull", SOURCE, "--yes", "--data-dir", str(folder)]
        env = {**os.environ, **hub.env}
        process = await asyncio.create_subprocess_exec(*command, env=env, stderr=subprocess.DEVNULL)
        while hub.sent_bytes < len(like) / 2:  # noqa: ASYNC110 (of another process)
            await asyncio.sleep(0.01)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
        alice = Alice(Store(folder))
        row = await measured("kill -9 at half, and again", hub, alice, alice.pull(hub), like)
        row.sent_bytes = hub.sent_bytes
        return row


async def layers_of(model: Path, folder: Path, layers: tuple[int, int], mbit: float) -> Row:
    async with hub_of(model) as hub:
        hub.bytes_per_s = mbit * 1e6 / 8
        alice = Alice(Store(folder))
        cut(model, *layers, folder.with_suffix(".gguf"))
        like = folder.with_suffix(".gguf").read_bytes()
        return await measured(f"layers {layers[0]}:{layers[1]}", hub, alice, alice.pull(hub, layers=layers), like)


async def parts(model: Path, folder: Path, layers: tuple[int, int]) -> list[Row]:
    each = len(read_header(model).tensors) // NUM_PARTS
    files = split(model, folder / "parts", [each] * (NUM_PARTS - 1))
    async with hub_of(*files) as hub:
        alice = Alice(Store(folder / "alice"))
        cut(files[0], *layers, folder / "parts.gguf")
        cut(model, *layers, folder / "one.gguf")
        path = alice.pull(hub, layers=layers)
        rows = [await measured(f"{NUM_PARTS} parts, layers", hub, alice, path, (folder / "parts.gguf").read_bytes())]
        at = min(one.offset for one in read_header(folder / "one.gguf").tensors.values())
        same = (folder / "one.gguf").read_bytes()[at:] == (folder / "parts.gguf").read_bytes()[at:]
        rows[0].words = f"tensors {'are' if same else 'are NOT'} those of the single file's shard"
        with open_model(files[0]) as file:
            like = file.read()
        rows.append(await measured(f"{NUM_PARTS} parts, all", hub, alice, joined(alice.pull(hub)), like))
        return rows


async def joined(pull: Awaitable[Path]) -> Path:
    first = await pull
    made = first.with_name("joined")
    with open_model(first) as file:
        made.write_bytes(file.read())
    return made


async def beside_mallory(model: Path, folder: Path, layers: tuple[int, int], mbit: float) -> Row:
    town = Town(await hashed(model))
    mallory = Mallory(town, 3)
    async with hub_of(model) as hub:
        hub.bytes_per_s = mbit * 1e6 / 8
        alice = Alice(Store(folder))
        cut(model, *layers, folder.with_suffix(".gguf"))
        pull = pull_beside(alice, town, hub, await town.who_has(mallory.peer), layers)
        like = folder.with_suffix(".gguf").read_bytes()
        row = await measured("a member's wrong bytes", hub, alice, pull, like)
    await town.close(mallory.peer, town.alice)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=demo_target())
    parser.add_argument("--layers", type=parse_layers, default=(4, 8))
    parser.add_argument("--mbit", type=float, default=400.0)
    arguments = parser.parse_args()
    return asyncio.run(tell(arguments.model, arguments.layers, arguments.mbit))


async def tell(model: Path, layers: tuple[int, int], mbit: float) -> int:
    print(f"{model.name}, {size(len(whole_of(model)))}, {REPO} on loopback, {mbit:.0f} Mbit/s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = await faults(model, folder, mbit)
        rows.append(await killed(model, folder / "killed", mbit))
        rows.append(await layers_of(model, folder / "layers", layers, mbit))
        rows.append(await beside_mallory(model, folder / "mallory", layers, mbit))
        rows += await parts(model, folder, layers)
    columns = ("TROUBLE", "BYTES", "SENT", "NEEDED", "S", "RATE / LINK", "WORDS")
    told = {True: "right", False: "WRONG", None: "none"}
    link = mbit * 1e6 / 8
    cells = [
        (
            row.what,
            told[row.is_right],
            size(row.sent_bytes),
            size(row.needed_bytes),
            f"{row.took_s:.1f}",
            f"{row.sent_bytes / row.took_s / link:.2f}",
            row.words,
        )
        for row in rows
    ]
    print(table(columns, cells))
    return int(any(row.is_right is False for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
