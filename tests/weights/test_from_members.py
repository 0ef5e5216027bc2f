"""Alice has no hub: what a model is she hears from members, of whom bob is honest and mallory is not."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from math import inf
from pathlib import Path

import msgspec
import pytest

from dsdnode.config import NodeConfig
from dsdnode.engine.gguf import read_manifest
from dsdnode.engine.gguf_header import Header, Tensor, read_header
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.errors import ModelRefused, Overloaded
from dsdnode.models import demo_target
from dsdnode.node.fetching import Hubs, Nobody
from dsdnode.node.targets import Target as NodeTarget
from dsdnode.weights import from_members, plan
from dsdnode.weights import members as members_module
from dsdnode.weights.holdings import Place, Tensors, hashed, holding, plain_names
from dsdnode.weights.members import FromMember, Member
from dsdnode.weights.pace import Pace
from dsdnode.weights.plan import plan_files
from dsdnode.weights.pull import Pull
from dsdnode.weights.sources import Remote, RemoteFile, Source
from dsdnode.weights.store import Store
from dsdnode.wire.manifests import pack_held
from dsdnode.wire.messages import Message
from dsdnode.wire.pieces import FindWeights, GetWeights, HasWeights, Weights
from tests.engine.test_gguf_parts import split
from tests.weights.test_members import Mallory, Town
from tests.weights.test_pull import BLOCK_BYTES, Alice


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alice:
    monkeypatch.setattr(plan, "BLOCK_BYTES", BLOCK_BYTES)
    return Alice(Store(tmp_path / "alice"))


async def town_of(path: Path) -> Town:
    return Town(await hashed(path))


async def prepared(alice: Alice, town: Town, members: list[Member]) -> Pull:
    return await from_members.prepare(
        alice.store, town.alice.rpc, members, None, town.model.weights_hash, alice.said.append
    )


async def pulled(alice: Alice, town: Town, members: list[Member]) -> Path:
    one = await prepared(alice, town, members)
    return await one.run(alice.said.append, alice, town.alice.rpc, members)


def of_size(model: Tensors, size_bytes: int) -> Tensors:
    ((name, _, sha256),) = model.files
    return msgspec.structs.replace(model, files=((name, size_bytes, sha256),))


@pytest.mark.parametrize("size_bytes", [1 << 50, (1 << 59) + 1, 3_500_000, 4_000_000, 20, 0])
async def test_a_size_that_mallory_made_up_is_not_believed(size_bytes: int, alice: Alice) -> None:
    town = await town_of(demo_target())
    mallory, bob = town.giver("mallory", of_size(town.model, size_bytes)), town.giver("bob")
    path = await pulled(alice, town, await town.who_has(mallory, bob))
    assert path.read_bytes() == demo_target().read_bytes()
    await town.close(mallory, bob, town.alice)


async def test_a_size_of_a_petabyte_is_refused_before_it_is_planned(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MAX_BLOCKS", 1 << 60)  # this alone would hold it, too
    monkeypatch.setattr(plan, "BLOCK_BYTES", 1 << 40)
    town = await town_of(demo_target())
    mallory = town.giver("mallory", of_size(town.model, 1 << 50))
    with pytest.raises(ModelRefused, match="bytes behind its last tensor, by its size"):
        await prepared(alice, town, await town.who_has(mallory))
    await town.close(mallory, town.alice)


def test_a_model_with_more_blocks_than_any_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server at an address that alice was given may have it, with tensors of its own."""
    file = RemoteFile("model.gguf", "", demo_target().stat().st_size)
    remote, header = Remote(Source(url="https://mallory.example/model.gguf"), (file,)), read_header(demo_target())
    assert plan_files(remote, header).size_bytes == file.size_bytes
    monkeypatch.setattr(plan, "MAX_BLOCKS", 4)
    with pytest.raises(ModelRefused, match="no model is so large"):
        plan_files(remote, header)


async def test_a_model_in_parts_is_found_whatever_mallory_calls_its_files(alice: Alice, tmp_path: Path) -> None:
    town = await town_of(split(demo_target(), tmp_path, [20, 20])[0])
    mallory = town.giver("mallory")
    (one,) = await town.who_has(mallory)
    files = tuple(msgspec.structs.replace(file, name=f"x{index}.gguf") for index, file in enumerate(one.manifest.files))
    members = [replace(one, manifest=msgspec.structs.replace(one.manifest, files=files))]
    path = await pulled(alice, town, members)
    assert read_manifest(path).weights_hash == town.model.weights_hash
    await town.close(mallory, town.alice)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_model_in_parts_is_not_one_file_because_mallory_says_so(
    whole: bool, alice: Alice, tmp_path: Path
) -> None:
    """One file would have the model's hash, if only it were that of the parts' hashes."""
    town = await town_of(split(demo_target(), tmp_path, [20, 20])[0])
    lie = msgspec.structs.replace(town.model, files=(("m.gguf", 3_200_000, town.model.weights_hash),), whole=whole)
    mallory, bob = town.giver("mallory", lie), town.giver("bob")
    path = await pulled(alice, town, await town.who_has(mallory, bob))
    assert read_manifest(path).weights_hash == town.model.weights_hash
    await town.close(mallory, bob, town.alice)


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["demo-target.gguf"], ["demo-target.gguf"]),
        (["model (1).gguf"], ["model _1_.gguf"]),
        (["modèle.gguf"], ["mod_le.gguf"]),
        (["model.GGUF"], ["model.gguf"]),
        (["sha256-4c27e0f5"], ["sha256-4c27e0f5.gguf"]),
        ([".gguf"], ["gguf.gguf"]),
        (["one-00001-of-00003.gguf"], ["one.gguf"]),
        (["x" * 250], ["x" * 200 + ".gguf"]),
        (["x0.gguf", "x1.gguf"], ["x0-00001-of-00002.gguf", "x0-00002-of-00002.gguf"]),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]),
    ],
)
def test_plain_names(names: list[str], plain: list[str]) -> None:
    assert plain_names(names) == plain


@pytest.mark.parametrize("name", ["model (1).gguf", "modèle.gguf", "sha256-4c27e0f5", "model.GGUF"])
async def test_bob_is_no_liar_for_what_his_file_is_called(name: str, alice: Alice, tmp_path: Path) -> None:
    shutil.copyfile(demo_target(), tmp_path / name)
    town = await town_of(tmp_path / name)
    bob = town.giver("bob", msgspec.structs.replace(town.model, licence="Licence © Bob"))
    members = await town.who_has(bob)
    assert [one.manifest.licence for one in members] == ["Licence ? Bob"]
    path = await pulled(alice, town, members)
    assert path.read_bytes() == demo_target().read_bytes()
    await town.close(bob, town.alice)


async def test_bob_says_nothing_of_a_model_that_nobody_would_hear_of() -> None:
    """Of more tensors than a manifest may have, say: whoever read it would take him for a liar."""
    town = await town_of(demo_target())
    place = town.model.places["#0"]
    places = {**town.model.places, **{f"tensor {number}": place for number in range(8192)}}
    with pytest.raises(ModelRefused, match="members could not be told of it"):
        town.giver("bob", msgspec.structs.replace(town.model, places=places))
    await town.close(town.alice)


async def test_what_is_before_the_tensors_is_asked_for_once(alice: Alice) -> None:
    """Mallory gives it as it is when it is hashed, and otherwise when nobody would look at it again."""
    town = await town_of(demo_target())
    mallory, asked = town.peer("mallory"), Counter[str]()
    own = holding(town.model, Path(), mallory.identity)

    async def find(peer: bytes, message: FindWeights, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        return HasWeights(), [own.signed, pack_held(own.held())]

    async def get(peer: bytes, message: GetWeights, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        data = own.read(message.tensor, message.offset, message.num_bytes)
        asked[message.tensor] += 1
        return Weights(), [bytes(len(data)) if message.tensor == "#0" and asked["#0"] > 1 else data]

    mallory.rpc.on_request(FindWeights, find)
    mallory.rpc.on_request(GetWeights, get)
    path = await pulled(alice, town, await town.who_has(mallory))
    assert path.read_bytes() == demo_target().read_bytes() and asked["#0"] == 1
    await town.close(mallory, town.alice)


async def test_padding_that_is_alone_in_the_last_block_is_anybody_s() -> None:
    town = await town_of(demo_target())
    bob = town.giver("bob")
    (member,) = await town.who_has(bob)
    tensors = {name: Tensor(name, (size,), Type.I8, at, size) for name, at, size in (("one", 32, 30), ("two", 96, 6))}
    header, one = Header("m.gguf", {}, tensors, 64), replace(member, tensors=frozenset({"two"}))
    giver = FromMember(town.alice.rpc, one, ["two"], header, [64, 64], Pace())
    assert giver.has(62, 64) and giver.has(102, 128) and giver.has(96, 128)
    assert not giver.has(61, 64) and not giver.has(32, 64) and not giver.has(64, 96) and not giver.has(64, 128)
    assert [piece async for piece in giver.read(62, 64)] == [bytes(2)]
    await town.close(bob, town.alice)


@pytest.mark.parametrize("every", [1, 3])
async def test_mallory_keeps_nobody_from_what_bob_gives(every: int, alice: Alice) -> None:
    town = await town_of(demo_target())
    bob, mallory = town.giver("bob"), Mallory(town, every)
    path = await pulled(alice, town, await town.who_has(bob, mallory.peer))
    assert path.read_bytes() == demo_target().read_bytes() and alice.steps[bob.name] > 0
    assert f"{mallory.peer.name} is left: gave wrong bytes of" in alice.words and bob.name not in alice.words
    await town.close(bob, mallory.peer, town.alice)


async def test_who_lets_the_beginning_drip_is_asked_last_and_alice_is_told(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eve says that it is large, too. Mallory goes on where she was, as nobody else gives it; but not for ever."""
    monkeypatch.setattr(from_members, "MAX_PIECE_BYTES", 16 << 10)
    monkeypatch.setattr(from_members, "SLACK_S", 0.0)
    monkeypatch.setattr(from_members, "LEAST_BYTES_PER_S", 1 << 40)  # any wait at all is too long
    town = await town_of(demo_target())
    place = town.model.places["#0"]
    eve = msgspec.structs.replace(town.model, places={**town.model.places, "#0": replaced(place, 256 << 20)})
    mallory, large = town.giver("mallory"), town.giver("eve", eve)
    assert await prepared(alice, town, await town.who_has(large, mallory))
    first, second = (word for word in alice.said if "is slow" in word)
    assert first.startswith(f"{mallory.name} is slow: it gave 16 kB in 0 s") and second.startswith(large.name)
    assert any("16 kB of 268 MB before the tensors are here" in word for word in alice.said)
    assert mallory.sharing is not None and mallory.sharing.given_bytes == place.size_bytes
    monkeypatch.setattr(from_members, "MOST_S", 0.0)
    with pytest.raises(ModelRefused, match="no member gives the beginning of demo-target"):
        await prepared(alice, town, await town.who_has(large, mallory))
    await town.close(mallory, large, town.alice)


async def test_who_contradicts_whom_is_said_where_nobody_is_believed(alice: Alice) -> None:
    town = await town_of(demo_target())
    places = {**town.model.places, "#0": msgspec.structs.replace(town.model.places["#0"], sha256="00" * 32)}
    mallory, bob = town.giver("mallory", msgspec.structs.replace(town.model, places=places)), town.giver("bob")
    with pytest.raises(ModelRefused, match="no member gives the beginning of demo-target"):
        await prepared(alice, town, await town.who_has(mallory, bob))
    assert "say different hashes of #0: it is not taken from members" in alice.words
    await town.close(mallory, bob, town.alice)


async def test_of_a_large_beginning_that_stops_coming_nothing_is_kept(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eve gives much of what she says to be 256 MiB, and then nothing: she may have many friends."""
    monkeypatch.setattr(from_members, "SLACK_S", 0.0)
    monkeypatch.setattr(from_members, "MOST_S", 0.0)
    monkeypatch.setattr(from_members, "MAX_PIECE_BYTES", 16 << 10)
    town, offsets = await town_of(demo_target()), list[int]()
    place = replaced(town.model.places["#0"], 256 << 20)
    eve = town.giver("eve", msgspec.structs.replace(town.model, places={**town.model.places, "#0": place}))

    async def give(peer: bytes, message: GetWeights, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        offsets.append(message.offset)
        return Weights(), [bytes(message.num_bytes)]

    eve.rpc.on_request(GetWeights, give)
    with pytest.raises(ModelRefused, match="no member gives the beginning of demo-target"):
        await prepared(alice, town, await town.who_has(eve))
    assert offsets == [0, 0]
    await town.close(eve, town.alice)


async def test_who_gave_a_wrong_beginning_is_not_asked_for_the_next(alice: Alice, tmp_path: Path) -> None:
    town = await town_of(split(demo_target(), tmp_path, [20, 20])[0])
    mallory, bob, asked = Mallory(town), town.giver("bob"), list[str]()
    give = mallory._get

    async def note(peer: bytes, message: GetWeights, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        asked.append(message.tensor)
        return await give(peer, message, buffers)

    mallory.peer.rpc.on_request(GetWeights, note)
    assert await prepared(alice, town, await town.who_has(mallory.peer, bob))
    assert asked == ["#0"] and alice.words.count("is left: gave wrong bytes of #0") == 1
    await town.close(mallory.peer, bob, town.alice)


def replaced(place: Place, size_bytes: int) -> Place:
    return msgspec.structs.replace(place, size_bytes=size_bytes)


async def test_a_slow_line_that_has_room_for_little_at_once_is_not_left(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob has nothing left for who has asked for more than he can send soon."""
    monkeypatch.setattr(members_module, "LATER_S", 0.0)
    monkeypatch.setattr(members_module, "LEAST_PIECE_BYTES", 4096)
    town = await town_of(demo_target())
    bob, room_bytes = town.giver("bob"), town.model.places["#0"].size_bytes
    assert bob.sharing is not None
    give = bob.sharing._on_get

    async def give_little(peer: bytes, message: GetWeights, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        if message.num_bytes > room_bytes:
            raise Overloaded("so much was asked for already that it would take too long")
        answer, data = await give(peer, message, buffers)
        return answer, list(data)

    bob.rpc.on_request(GetWeights, give_little)
    path = await pulled(alice, town, await town.who_has(bob))
    assert path.read_bytes() == demo_target().read_bytes() and alice.said == []
    await town.close(bob, town.alice)


class Rates:
    """What each pace was told to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = Counter[float]()
        rates = self

        class Told(Pace):
            def __init__(self, bytes_per_s: float = inf) -> None:
                super().__init__()
                self._told_bytes_per_s = bytes_per_s

            async def take(self, num_bytes: int) -> None:
                rates.taken[self._told_bytes_per_s] += num_bytes

        monkeypatch.setattr(from_members, "Pace", Told)


async def test_no_more_is_taken_of_members_alone_than_alice_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town, rates = await town_of(demo_target()), Rates(monkeypatch)
    bob = town.giver("bob")
    config = NodeConfig(data_dir=tmp_path, max_download_bytes_per_s=100_000)
    async with Hubs(config, Nobody(), town.alice.rpc) as hubs:
        one = await hubs.among([bob.identity.peer_id], town.model.weights_hash)
        path = await hubs.fetch(NodeTarget.at(one), None)
    assert path.read_bytes() == demo_target().read_bytes()
    of_tensors = sum(tensor.size_bytes for tensor in read_header(path).tensors.values())
    assert rates.taken == {100_000: of_tensors + town.model.places["#0"].size_bytes}
    await town.close(bob, town.alice)


@pytest.mark.parametrize("more_bytes", [16, 1 << 40])
async def test_a_part_without_tensors_is_as_large_as_what_is_before_them(
    more_bytes: int, alice: Alice, tmp_path: Path
) -> None:
    """Mallory says that something is behind it."""
    town = await town_of(split(demo_target(), tmp_path, [0, 20, 20])[0])
    (name, size_bytes, sha256), *others = town.model.files
    files = ((name, size_bytes + more_bytes, sha256), *others)
    mallory, bob = town.giver("mallory", msgspec.structs.replace(town.model, files=files)), town.giver("bob")
    path = await pulled(alice, town, await town.who_has(mallory, bob))
    assert read_manifest(path).weights_hash == town.model.weights_hash
    await town.close(mallory, bob, town.alice)
