"""Alice's model file while a real worker serves it: what is written into it, and what is put in its place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from dsdnode.engine import client, mapped
from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.gguf import cut, read_manifest
from dsdnode.engine.port import Chunk
from dsdnode.errors import EngineLost
from tests.engine.test_worker import DEMO, OPTIONS, PROMPT, SAMPLING, killed, start_of, state_of

pytestmark = pytest.mark.slow


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[tuple[WorkerEngine, Path]]:
    """An engine on a file of its own."""
    path = tmp_path / "alice's.gguf"
    path.write_bytes(DEMO.read_bytes())
    engine = await WorkerEngine.start(path, OPTIONS)
    yield engine, path
    await engine.close()


def overwrite(path: Path) -> None:
    """Other weights under the same header."""
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(4096))


async def test_nothing_is_computed_of_a_file_that_was_written_to(own: tuple[WorkerEngine, Path]) -> None:
    engine, path = own
    lost = asyncio.Event()
    await engine.forward([start_of(0)])
    overwrite(path)
    engine.on_lost(lambda _: lost.set())
    with pytest.raises(EngineLost, match="written to"):
        await engine.forward([start_of(1)])
    async with asyncio.timeout(10):
        await lost.wait()
    assert "written to" in engine.quarantined and engine.num_deaths == 0 and engine.pid is None
    assert str(path.parent) not in engine.quarantined
    with pytest.raises(EngineLost, match="written to"):
        await engine.tokenize("hello")


@pytest.mark.parametrize("write", [overwrite, lambda path: os.truncate(path, 4096), lambda path: path.write_bytes(b"")])
async def test_who_asks_for_nothing_is_told_too(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOOK_S", 0.05)
    path = tmp_path / "alice's.gguf"
    path.write_bytes(DEMO.read_bytes())
    engine = await WorkerEngine.start(path, OPTIONS)
    try:
        lost = asyncio.Event()
        engine.on_lost(lambda _: lost.set())
        write(path)
        async with asyncio.timeout(10):
            await lost.wait()
        assert "written to" in engine.quarantined and not engine.available
    finally:
        await engine.close()


def over_itself(path: Path) -> None:
    """As `cp` of the same file, or of one that differs and then of the same."""
    data = path.read_bytes()
    path.write_bytes(b"")
    path.write_bytes(data)


def quietly(path: Path) -> None:
    """The time of writing is as it was."""
    before = path.stat()
    over_itself(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("touch", [Path.touch, over_itself, quietly])
@pytest.mark.parametrize("start", [0, 1])
async def test_a_file_in_which_all_is_as_it_was_is_hosted_again(
    touch: Callable[[Path], object], start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOOK_S", 0.05)
    monkeypatch.setattr(mapped, "QUIET_S", 0.1)
    path, end = tmp_path / "alice's.gguf", read_manifest(DEMO).num_layers
    cut(DEMO, start, end, path)
    engine = await WorkerEngine.start(path, OPTIONS)
    states = PROMPT if start == 0 else np.ones((20, engine.shard.width), np.float32)
    asked = [Chunk(0, 0, states, 2, SAMPLING)]
    try:
        [before] = await engine.forward(asked)
        for _ in range(2):
            lost = asyncio.Event()
            engine.on_lost(lambda _, lost=lost: lost.set())  # type: ignore[misc]
            touch(path)
            await lost.wait()
            assert "it is being looked at" in engine.quarantined
            await state_of(engine, lambda engine: engine.available)
            assert not engine.quarantined and engine.num_deaths == 0
            [after] = await engine.forward(asked)
            assert after.tokens.tolist() == before.tokens.tolist()
    finally:
        await engine.close()


async def test_a_shard_with_other_weights_under_its_header_is_not_hosted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says itself of what model it is: that must not be believed now. Nor is it looked at while it is written."""
    monkeypatch.setattr(client, "LOOK_S", 0.05)
    monkeypatch.setattr(mapped, "QUIET_S", 0.3)
    path = tmp_path / "alice's.gguf"
    cut(DEMO, 1, read_manifest(DEMO).num_layers, path)
    data = path.read_bytes()
    engine = await WorkerEngine.start(path, OPTIONS)
    try:
        overwrite(path)
        await state_of(engine, lambda engine: engine.quarantined)
        path.write_bytes(data)  # before anybody has looked
        await state_of(engine, lambda engine: engine.available)
        overwrite(path)
        await state_of(engine, lambda engine: "until the node is restarted" in engine.quarantined)
        with pytest.raises(EngineLost, match="written to"):
            await engine.forward([Chunk(0, 0, np.ones((20, engine.shard.width), np.float32))])
    finally:
        await engine.close()


async def test_a_file_that_is_replaced_is_served_as_it_was_until_its_worker_dies(tmp_path: Path) -> None:
    """A shard says itself what it is, so its weights are those that were there at first or none."""
    path, other = tmp_path / "part.gguf", tmp_path / "new"
    cut(DEMO, 0, read_manifest(DEMO).num_layers, path)
    other.write_bytes(path.read_bytes())
    overwrite(other)
    engine = await WorkerEngine.start(path, OPTIONS)
    try:
        [before] = await engine.forward([start_of(0)])
        other.replace(path)
        [after] = await engine.forward([start_of(1)])
        assert after.tokens.tolist() == before.tokens.tolist() and not engine.quarantined
        told: list[str] = []
        engine.on_change(lambda: told.append(engine.quarantined))
        await killed(engine, None)
        assert told == [""]
        with pytest.raises(EngineLost, match="cannot be loaded any more"):
            await engine.forward([start_of(0)])
        assert told[-1] == engine.quarantined and str(tmp_path) not in engine.quarantined
    finally:
        await engine.close()
