"""Who gives what, in which order: fetching from several at once, without a wire."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dsdnode.engine.gguf_header import Tensor
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.weights import fetch as fetch_module
from dsdnode.weights.fetch import PEER, Fetch
from dsdnode.weights.plan import Blocks, Copy, Output, Plan
from dsdnode.weights.target import Target

RIGHT = b"onetwothree!"
ONE, TWO = Tensor("one", (6,), Type.I8, 0, 6), Tensor("two", (6,), Type.I8, 6, 6)
PLAN = Plan(
    (Output("layers.gguf", 12),), (Copy(0, 12, 0, 0),), Blocks([(0, 4), (4, 8), (8, 12)]), (ONE, TWO)
)  # fmt: skip
HASHES = {one.name: hashlib.sha256(RIGHT[one.offset : one.offset + one.size_bytes]).hexdigest() for one in (ONE, TWO)}


@dataclass
class Giver:
    """Gives `data` of [start, end), when it is `time`."""

    name: str
    data: bytes
    start: int
    end: int
    time: asyncio.Event
    is_peer: bool = True
    num_lanes: int = 1

    def has(self, start: int, end: int) -> bool:
        return self.start <= start and end <= self.end

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        await self.time.wait()
        yield self.data[start:end]


class SlowToHash(Target):
    """The first tensor's first hash is not told before something was dropped."""

    dropped: asyncio.Event
    hashes_one: asyncio.Event

    async def sha256_of(self, tensor: Tensor) -> str:
        digest = await super().sha256_of(tensor)
        if tensor is ONE and not self.hashes_one.is_set():
            self.hashes_one.set()
            await self.dropped.wait()
        return digest

    def drop(self, index: int) -> None:
        super().drop(index)
        self.dropped.set()


async def test_a_block_that_is_dropped_while_its_tensor_is_hashed_is_hashed_again(tmp_path: Path) -> None:
    """Carol and mallory give the first two blocks. While the first tensor is hashed, dave gives the third one, and what
    mallory gave of the second tensor proves wrong. The middle block, where both lie, comes again: from eve, who has
    other bytes for the end of the first."""
    now = asyncio.Event()
    now.set()
    target = SlowToHash(tmp_path, PLAN)
    target.dropped, target.hashes_one = asyncio.Event(), asyncio.Event()
    carol = Giver(PEER + "carol", RIGHT, 0, 4, now)
    mallory = Giver(PEER + "mallory", b"onetwoTHree!", 4, 8, now)
    dave = Giver(PEER + "dave", RIGHT, 6, 12, target.hashes_one)
    eve = Giver(PEER + "eve", b"onetWOthree!", 4, 8, now)
    hub = Giver("hub.example", RIGHT, 0, 12, now, is_peer=False)
    left: list[str] = []
    fetch = Fetch(PLAN, target, left.append, lambda source, num_bytes: None)
    try:
        async with asyncio.timeout(10):
            await fetch.run([carol, mallory, dave, eve, hub], HASHES)
    finally:
        target.close()
    assert (tmp_path / "layers.gguf").read_bytes() == RIGHT
    assert fetch.found == HASHES


class InTurn(Giver):
    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0)
        yield self.data[start:end]


async def fetched(folder: Path, givers: Sequence[Giver], plan: Plan = PLAN) -> list[str]:
    """What was told, when all is there and right."""
    hashes = {one.name: hashlib.sha256(RIGHT[one.offset :][: one.size_bytes]).hexdigest() for one in plan.tensors}
    target, said = Target(folder, plan), list[str]()
    fetch = Fetch(plan, target, said.append, lambda source, num_bytes: None)
    try:
        async with asyncio.timeout(10):
            await fetch.run(givers, hashes)
    finally:
        target.close()
    assert (folder / "layers.gguf").read_bytes() == RIGHT and fetch.found == hashes
    return said


@pytest.mark.parametrize("names", [("bob", "mallory"), ("mallory", "bob")])
async def test_who_is_honest_is_not_left_for_what_another_gave(names: tuple[str, str], tmp_path: Path) -> None:
    """Bob and mallory, one after the other, give a block each, and there is nobody else."""
    now = asyncio.Event()
    now.set()
    data = {"bob": RIGHT, "mallory": b"oneTwothrEe!"}
    givers = [InTurn(PEER + name, data[name], 0, 12, now, num_lanes=2) for name in names]
    said = await fetched(tmp_path, givers)
    assert said in ([f"peer mallory is left: gave wrong bytes of {name}"] for name in ("one", "two"))


class Dripping(InTurn):
    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        if end - start > 4:
            await asyncio.Event().wait()
        async for piece in super().read(start, end):
            yield piece


@pytest.mark.parametrize("third", ["hub.example", PEER + "carol"])
async def test_who_lied_of_a_block_lets_nobody_wait_for_all_of_the_tensor(
    third: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mallory, bob, and the hub or carol give a block each; asked for all three, mallory gives nothing."""
    monkeypatch.setattr(fetch_module, "COMPARE_S", 0.05)
    now = asyncio.Event()
    all_of_it = replace(PLAN, tensors=(Tensor("all", (12,), Type.I8, 0, 12),))
    mallory, bob = Dripping(PEER + "mallory", b"oneTwothree!", 0, 12, now), InTurn(PEER + "bob", RIGHT, 0, 12, now)
    last = InTurn(third, RIGHT, 0, 12, now, is_peer=third.startswith(PEER), num_lanes=2)
    said = await fetched(tmp_path, [mallory, bob, last], all_of_it)
    assert said == ["peer mallory is left: gave wrong bytes of all"]


async def test_nothing_is_taken_of_what_comes_after_all_members_were_left(tmp_path: Path) -> None:
    """Mallory has said a hash that the hub gives the lie; what she was asked for before comes then, and nothing would
    tell that it is wrong."""
    now, distrusted = asyncio.Event(), asyncio.Event()
    now.set()
    mallory = Giver(PEER + "mallory", b"oneTwothree!", 0, 4, distrusted)
    hub = Giver("hub.example", RIGHT, 0, 12, now, is_peer=False)
    target = Target(tmp_path, PLAN)
    fetch = Fetch(PLAN, target, lambda words: distrusted.set() if "twice" in words else None, lambda name, size: None)
    try:
        async with asyncio.timeout(10):
            await fetch.run([mallory, hub], HASHES | {"two": "00" * 32})
    finally:
        target.close()
    assert fetch.distrusted and (tmp_path / "layers.gguf").read_bytes() == RIGHT


async def test_a_member_that_drips_holds_up_nothing_that_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mallory lets alice wait for ever for two of the three blocks, and so does eve, who takes one over."""
    monkeypatch.setattr(fetch_module, "LATE_S", 0.0)
    now, never = asyncio.Event(), asyncio.Event()
    now.set()
    mallory = Giver(PEER + "mallory", RIGHT, 0, 12, never, num_lanes=2)
    hub = Giver("hub.example", RIGHT, 0, 12, now, is_peer=False)
    eve = Giver(PEER + "eve", RIGHT, 4, 8, never)
    assert await fetched(tmp_path, [mallory, eve, hub]) == []


async def test_what_comes_late_from_one_and_before_from_another_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob's block comes when the hub has given it, too, and only then eve gives the last one."""
    monkeypatch.setattr(fetch_module, "LATE_S", 0.0)
    now, late, last = asyncio.Event(), asyncio.Event(), asyncio.Event()
    now.set()

    class Bob(Giver):
        async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
            await late.wait()
            last.set()
            yield b"????"

    def step(source: str, num_bytes: int) -> None:
        steps.append((source, num_bytes))
        if len(steps) == 2:
            late.set()

    steps: list[tuple[str, int]] = []
    bob, eve = Bob(PEER + "bob", RIGHT, 0, 4, now), Giver(PEER + "eve", RIGHT, 8, 12, last)
    target = Target(tmp_path, PLAN)
    try:
        async with asyncio.timeout(10):
            hub = InTurn("hub.example", RIGHT, 0, 8, now, is_peer=False)
            await Fetch(PLAN, target, print, step).run([bob, eve, hub], HASHES)
    finally:
        target.close()
    assert (tmp_path / "layers.gguf").read_bytes() == RIGHT
    assert steps == [("hub.example", 4), ("hub.example", 4), ("peer eve", 4)]


class Asked(Giver):
    num_asked = 0

    def has(self, start: int, end: int) -> bool:
        self.num_asked += 1
        return super().has(start, end)


async def test_who_has_other_layers_is_not_asked_about_each_block_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 3,000 blocks bob has the last two, one tensor. Mallory gives them wrongly when all else is there."""
    monkeypatch.setattr(fetch_module, "MAX_LOOKED_BLOCKS", 64)
    data, end, now, rest = bytes(range(250)) * 12, 3000, asyncio.Event(), asyncio.Event()
    now.set()
    last = Tensor("last", (2,), Type.I8, end - 2, 2)
    blocks = Blocks([(at, at + 1) for at in range(end)])
    target = Target(tmp_path, Plan((Output("layers.gguf", end),), (Copy(0, end, 0, 0),), blocks, (last,)))
    mallory = Giver(PEER + "mallory", bytes(end), end - 2, end, rest, num_lanes=2)
    bob = Asked(PEER + "bob", data, end - 2, end, now, num_lanes=2)
    hub = InTurn("hub.example", data, 0, end - 2, now, is_peer=False)

    def step(source: str, num_bytes: int) -> None:
        if len(target.suppliers) == end - 2:
            rest.set()

    try:
        async with asyncio.timeout(10):
            await Fetch(target._plan, target, print, step).run(
                [mallory, bob, hub], {"last": hashlib.sha256(data[-2:]).hexdigest()}
            )
    finally:
        target.close()
    assert (tmp_path / "layers.gguf").read_bytes() == data and target.suppliers[end - 2] == bob.name
    assert bob.num_asked < 2 * end
