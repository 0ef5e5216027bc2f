"""What pulls leave in the store, and several of them at once: of alice, of her other terminal, of mallory's bytes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsdnode.engine.gguf import cut, read_manifest
from dsdnode.engine.gguf_header import read_header
from dsdnode.engine.gguf_parts import open_model
from dsdnode.errors import BadInput, DsdError, ModelRefused
from dsdnode.models import demo_target
from dsdnode.weights import from_members, plan
from dsdnode.weights.holdings import hashed, kept
from dsdnode.weights.pull import Pull
from dsdnode.weights.sharing import NotHere
from dsdnode.weights.store import JOURNAL, Store
from dsdnode.wire.messages import Message
from dsdnode.wire.pieces import GetWeights
from tests.engine.test_gguf_parts import split
from tests.weights.hub import Asked, Hub, hub_of
from tests.weights.test_members import Town
from tests.weights.test_pull import BLOCK_BYTES, Alice, once, some

WHOLE_BYTES = demo_target().stat().st_size
NAME = "demo-target-d011edef"


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alice:
    monkeypatch.setattr(plan, "BLOCK_BYTES", BLOCK_BYTES)
    return Alice(Store(tmp_path / "alice"))


@pytest.fixture
def again(alice: Alice) -> Alice:
    """Her other terminal."""
    return Alice(Store(alice.store.folder.parent))


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with hub_of(demo_target()) as one:
        yield one


# --- headers


def with_another_epsilon(folder: Path) -> Path:
    """A model whose layers are the same, and which computes something else with them."""
    data, key = bytearray(demo_target().read_bytes()), "llama.attention.layer_norm_rms_epsilon"
    assert key in read_header(demo_target()).metadata
    struct.pack_into("<f", data, data.index(key.encode()) + len(key) + 4, 77.0)
    path = folder / "demo-target.gguf"
    path.write_bytes(data)
    return path


async def test_the_header_that_a_member_gave_is_not_the_hub_s(alice: Alice, hub: Hub, tmp_path: Path) -> None:
    """Mallory says the right hash of the whole file, which anybody knows, and gives her own header; of layers nothing
    tells it. Alice's pull fails, and she turns to the hub."""
    model, lie = await hashed(demo_target()), await hashed(with_another_epsilon(tmp_path))
    town = Town(model)
    mallory = town.giver("mallory", msgspec.structs.replace(lie, files=model.files))
    assert mallory.sharing is not None
    give = mallory.sharing._on_get

    async def give_the_header_alone(
        peer: bytes, message: GetWeights, buffers: list[bytes]
    ) -> tuple[Message, list[bytes]]:
        if message.tensor != "#0":
            raise NotHere("no")
        answer, data = await give(peer, message, buffers)
        return answer, list(data)

    mallory.rpc.on_request(GetWeights, give_the_header_alone)
    members = await town.who_has(mallory)
    one = await from_members.prepare(
        alice.store, town.alice.rpc, members, (3, 5), model.weights_hash, alice.said.append
    )
    with pytest.raises(DsdError):
        await one.run(alice.said.append, alice, town.alice.rpc, members)
    path = await alice.pull(hub, layers=(3, 5))
    cut(demo_target(), 3, 5, tmp_path / "cut.gguf")
    assert path.read_bytes() == (tmp_path / "cut.gguf").read_bytes()
    await town.close(mallory, town.alice)


async def test_nor_is_what_lies_behind_it(alice: Alice, hub: Hub, tmp_path: Path) -> None:
    """With mallory's header came the first bytes of a tensor, and nobody is there any more to say its hash."""
    model = await hashed(demo_target())
    town = Town(model)
    bob = town.giver("bob")
    members = await town.who_has(bob)
    one = await from_members.prepare(alice.store, town.alice.rpc, members, (0, 2), model.weights_hash, print)
    [beginning] = one._looked.beginnings
    one._looked.beginnings[:] = [beginning + bytes(6 * BLOCK_BYTES)]
    with pytest.raises(DsdError):
        await one.run(alice.said.append, alice)
    assert alice.steps.keys() == {"before", "peer read before"}
    path = await alice.pull(hub, layers=(0, 2))
    cut(demo_target(), 0, 2, tmp_path / "cut.gguf")
    assert path.read_bytes() == (tmp_path / "cut.gguf").read_bytes()
    await town.close(bob, town.alice)


async def test_nor_are_layers_that_another_hub_gave(alice: Alice, hub: Hub, tmp_path: Path) -> None:
    """Alice turns to a mirror, mallory's; it fails before all is there, and no hash tells what layers are, or their
    header."""

    def hers(asked: Asked) -> None:
        asked.status = 400 if asked.number > 2 else 0
        asked.body = bytes(asked.num_bytes) if asked.number else lie[asked.start : asked.end]

    lie = with_another_epsilon(tmp_path).read_bytes()
    async with hub_of(demo_target()) as mirror:
        mirror.faults, mirror.host = [hers], "localhost"
        with pytest.raises(DsdError, match="answers 400"):
            await alice.pull(mirror, layers=(3, 5))
    assert alice.steps["localhost"] > 0
    path = await alice.pull(hub, layers=(3, 5))
    cut(demo_target(), 3, 5, tmp_path / "cut.gguf")
    assert path.read_bytes() == (tmp_path / "cut.gguf").read_bytes()
    assert alice.store.entries()[0].checked == "as 127.0.0.1 gave it"


async def test_a_pull_that_is_killed_as_it_begins_leaves_no_header_of_another_source(alice: Alice, hub: Hub) -> None:
    async with alice.pulling(hub) as one:
        entry = one._entry()
        folder = alice.store.begin(msgspec.structs.replace(entry, source="peers:mallory"))
        (folder / "header-0").write_bytes(b"hers")
        alice.store.begin(entry)
    assert not list(folder.glob("header-*"))


def login_page(asked: Asked) -> None:
    asked.body = b"<html>log in first</html>".ljust(asked.num_bytes)


async def test_a_wrong_first_answer_is_not_kept(alice: Alice, hub: Hub) -> None:
    """Alice is on a train, whose network wants a login first."""
    hub.faults = [once(0, login_page)]
    with pytest.raises(ModelRefused, match="not a GGUF file"):
        await alice.pull(hub)
    assert (await alice.pull(hub)).read_bytes() == demo_target().read_bytes()


async def test_a_header_of_before_that_is_of_no_use_is_fetched_anew(alice: Alice, hub: Hub) -> None:
    async with alice.pulling(hub):
        pass
    [header] = alice.store.partial(NAME).glob("header-*")
    header.write_bytes(b"<html>log in first</html>".ljust(header.stat().st_size))
    assert (await alice.pull(hub)).read_bytes() == demo_target().read_bytes()
    hub.faults = [some(0, 1, login_page)]
    with pytest.raises(ModelRefused, match="not a GGUF file"):  # asked for once more, not for ever
        await alice.pull(hub, layers=(0, 2))


async def test_headers_alone_are_listed_and_can_be_removed(alice: Alice, hub: Hub) -> None:
    """They count for --max-disk, too."""
    async with alice.pulling(hub):
        pass
    [left] = alice.store.unfinished()
    assert (left.name, left.layers, left.asked) == (NAME, None, "") and left.size_bytes > 0
    assert alice.store.remove(NAME) == left.size_bytes
    assert alice.store.unfinished() == [] and not alice.store.partial(NAME).exists()


async def test_what_has_its_name_is_on_the_disk(alice: Alice, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice's lights go out as her pull is done. What takes long to be written holds up nothing else that she does."""
    synced, named = dict[int, bool](), list[set[int]]()
    main = threading.get_ident()

    def sync(file: int) -> None:
        synced.setdefault(os.fstat(file).st_ino, threading.get_ident() == main)

    def rename(source: Path, target: Path) -> None:
        named.append({one.stat().st_ino for one in (*source.iterdir(), source)} - synced.keys())
        source.replace(target)

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr("os.rename", rename)
    path = await alice.pull(hub)
    assert named == [set()] and not synced[path.stat().st_ino] and path.parent.parent.stat().st_ino in synced


# --- what came wrong


async def test_wrong_bytes_before_the_tensors_come_again_too(alice: Alice, hub: Hub) -> None:
    """They are read before anything else is, and say of a token what it is not. Others hear what is right by then."""

    def misspelt(asked: Asked) -> None:
        asked.body = demo_target().read_bytes()[asked.start : asked.end].replace(b"<|", b"<!")

    hub.faults = [once(0, misspelt)]
    path = await alice.pull(hub)
    assert path.read_bytes() == demo_target().read_bytes() and hub.sent_bytes > 1.5 * path.stat().st_size
    (again, there), [entry] = (await hashed(demo_target()), kept(path.parent)), alice.store.entries()
    assert there is not None and there.places["#0"].sha256 == again.places["#0"].sha256
    assert (path.parent / there.places["#0"].file).read_bytes() == path.read_bytes()[: again.places["#0"].size_bytes]
    assert entry.model_id == read_manifest(demo_target()).model_id


async def test_of_five_parts_the_wrong_one_is_fetched_again(alice: Alice, tmp_path: Path) -> None:
    parts = split(demo_target(), tmp_path, [0, 3, 20, 9])
    async with hub_of(*parts) as hub:

        def once_wrong(asked: Asked) -> None:
            if "00003-of" in asked.path and asked.start:
                hub.faults.clear()
                asked.body = bytes(asked.num_bytes)

        hub.faults = [once_wrong]
        path = await alice.pull(hub)
        with open_model(path) as one:
            assert one.read() == b"".join(part.read_bytes() for part in parts)
        assert "bob-00003-of-00005.gguf: not with the SHA-256" in alice.words
        assert hub.sent_bytes <= sum(part.stat().st_size for part in (*parts, parts[2]))


# --- several at once


class Gate:
    """What comes for this pull waits here."""

    def __init__(self, pull: Pull) -> None:
        self.is_reached, self._opened = asyncio.Event(), asyncio.Event()
        pull._pace.take = self._wait  # type: ignore[method-assign]

    async def _wait(self, num_bytes: int) -> None:
        self.is_reached.set()
        await self._opened.wait()

    async def until_reached(self) -> None:
        await asyncio.wait_for(self.is_reached.wait(), 30)

    def open(self) -> None:
        self._opened.set()


async def test_a_pull_is_not_taken_away_while_it_runs(alice: Alice, again: Alice, hub: Hub) -> None:
    """At her other terminal alice says no to the same model, and throws it away."""
    async with alice.pulling(hub) as one, again.pulling(hub) as other:
        gate = Gate(one)
        first = asyncio.create_task(one.run(alice.said.append, alice))
        await gate.until_reached()
        other.forget()
        with pytest.raises(BadInput, match=f"another process is fetching {NAME} already"):
            again.store.remove(NAME)
        gate.open()
        path = await first
    assert path.read_bytes() == demo_target().read_bytes() and hub.sent_bytes == WHOLE_BYTES
    assert again.store.remove(NAME) > 0 and not path.exists()


async def test_nor_while_it_gets_its_name(alice: Alice, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[Path] = []

    def at_last(source: Path, target: Path) -> None:
        with pytest.raises(BadInput, match="another process"):
            alice.store.remove(NAME)
        refused.append(source.replace(target))

    monkeypatch.setattr("os.rename", at_last)
    assert await alice.pull(hub) and len(refused) == 1 and refused[0].exists()


async def test_who_waited_for_a_folder_that_is_gone_by_then_makes_another(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was locked may be the journal of a folder that was removed a moment before."""
    flock, removed = fcntl.flock, list[Path]()

    def lock(file: Any, how: int) -> None:
        flock(file, how)
        if Path(file.name).name == JOURNAL and not removed:
            removed.append(alice.store.partial(NAME))
            shutil.rmtree(removed[0])

    monkeypatch.setattr("fcntl.flock", lock)
    with alice.store.held(NAME) as folder:
        assert (folder / JOURNAL).exists()
    assert len(removed) == 1


async def test_who_says_yes_late_finds_it_there(alice: Alice, again: Alice, hub: Hub) -> None:
    async with alice.pulling(hub) as one, again.pulling(hub) as other:
        path = await one.run(alice.said.append, alice)
        assert await other.run(again.said.append, again) == path
    assert path.exists() and hub.sent_bytes == WHOLE_BYTES
    assert again.store.unfinished() == []


async def test_what_was_deleted_by_hand_is_not_here(alice: Alice, hub: Hub) -> None:
    path = await alice.pull(hub)
    path.unlink()
    async with alice.pulling(hub) as one:
        assert one.known is None
        assert await one.run(alice.said.append, alice) == path
    assert path.read_bytes() == demo_target().read_bytes()


async def test_two_at_once_keep_to_the_room_of_both(alice: Alice, again: Alice, hub: Hub) -> None:
    """Of 5 MB the first takes 3.1, though most of it is still to come."""
    alice.store, again.store = Store(alice.store.folder.parent, 5_000_000), Store(alice.store.folder.parent, 5_000_000)
    async with alice.pulling(hub) as one, again.pulling(hub, layers=(0, 6)) as other:
        gate = Gate(one)
        first = asyncio.create_task(one.run(alice.said.append, alice))
        await gate.until_reached()
        assert other.quote().disk_free_bytes < 2_000_000
        with pytest.raises(DsdError, match=r"MB are needed on the disk, .* are for what is being fetched"):
            await other.run(again.said.append, again)
        gate.open()
        await first
