"""Bob and carol have a model, alice pulls it: from them, from the hub, or from both; mallory gives wrong bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import msgspec
import pytest

from dsdnode.engine.gguf import cut
from dsdnode.errors import ModelRefused, PeerMisbehaved
from dsdnode.identity import Identity
from dsdnode.models import demo_target
from dsdnode.net.memory import MemoryHub
from dsdnode.net.rpc import Rpc
from dsdnode.weights import from_members, plan
from dsdnode.weights.holdings import Holding, Place, Tensors, hashed, holding, kept
from dsdnode.weights.members import Member, agreed, who_has
from dsdnode.weights.sharing import Sharing
from dsdnode.weights.store import Store
from dsdnode.weights.target import Target
from dsdnode.wire.manifests import open_manifest, pack_held, sign_manifest, unpack_held
from dsdnode.wire.messages import Contact, Message, Refused
from dsdnode.wire.pieces import FindWeights, GetWeights, HasWeights, Weights
from tests.weights.hub import Hub, hub_of
from tests.weights.test_pull import BLOCK_BYTES, SOURCE, Alice

WHOLE_BYTES = demo_target().stat().st_size
FAST = 1e9


@dataclass
class Peer:
    identity: Identity
    rpc: Rpc
    sharing: Sharing | None = None

    @property
    def name(self) -> str:
        return f"peer {self.identity.peer_id.hex()[:12]}"


class Town:
    """Who talks over one memory hub."""

    def __init__(self, model: Tensors) -> None:
        self.hub = MemoryHub()
        self.model = model
        self.alice = self.peer("alice")

    def peer(self, name: str) -> Peer:
        identity = Identity(name.encode().ljust(32))
        rpc = Rpc(self.hub.transport(Contact(identity.public_key, ("tcp://127.0.0.1:29170",))), Random(1))
        rpc.start()
        if name != "alice":
            self.alice.rpc.transport.introduce(rpc.transport.contact)
        return Peer(identity, rpc)

    def giver(self, name: str, tensors: Tensors | None = None, folder: Path = Path(), rate: float = FAST) -> Peer:
        """A member that gives what it has."""
        peer = self.peer(name)
        own = holding(tensors or self.model, folder, peer.identity)
        peer.sharing = Sharing(peer.rpc, {own.manifest.weights_hash: own}.get, rate)
        peer.sharing.start()
        return peer

    async def who_has(self, *peers: Peer) -> list[Member]:
        return await who_has(self.alice.rpc, [one.identity.peer_id for one in peers], self.model.weights_hash)

    async def close(self, *peers: Peer) -> None:
        for one in peers:
            if one.sharing is not None:
                await one.sharing.close()
            await one.rpc.close()


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    town = Town(await hashed(demo_target()))
    yield town
    await town.close(town.alice)


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alice:
    monkeypatch.setattr(plan, "BLOCK_BYTES", BLOCK_BYTES)
    return Alice(Store(tmp_path / "alice"))


@asynccontextmanager
async def silent_hub() -> AsyncIterator[Hub]:
    """It tells of its files and gives their beginnings, and then nothing more comes."""
    async with hub_of(demo_target()) as hub:
        hub.faults = [lambda asked: setattr(asked, "status", 500 if asked.number else 0)]
        yield hub


async def pull(
    alice: Alice, town: Town, hub: Hub, members: Sequence[Member], layers: tuple[int, int] | None = None
) -> Path:
    async with alice.pulling(hub, SOURCE, layers) as one:
        return await one.run(alice.said.append, alice, town.alice.rpc, members)


async def test_members_and_the_hub_give_at_once(alice: Alice, town: Town) -> None:
    bob, carol = town.giver("bob"), town.giver("carol")
    async with hub_of(demo_target()) as hub:
        hub.bytes_per_s = 3e6
        path = await pull(alice, town, hub, await town.who_has(bob, carol))
    assert path.read_bytes() == demo_target().read_bytes()
    assert sum(alice.steps.values()) == WHOLE_BYTES and alice.steps[bob.name] and alice.steps[carol.name]
    assert hub.sent_bytes < WHOLE_BYTES
    await town.close(bob, carol)


async def test_a_hub_that_fails_is_gone_on_without(alice: Alice, town: Town) -> None:
    bob = town.giver("bob")
    async with silent_hub() as hub:
        path = await pull(alice, town, hub, await town.who_has(bob), (2, 5))
    cut(demo_target(), 2, 5, path.with_name("cut"))
    assert path.read_bytes() == path.with_name("cut").read_bytes() and alice.steps[bob.name] > 0
    await town.close(bob)


class Mallory:
    """Tells the truth of what she has, and gives other bytes."""

    def __init__(self, town: Town, every: int = 1) -> None:
        self.peer = town.peer("mallory")
        own = holding(town.model, Path(), self.peer.identity)
        self._own, self._every, self.num_asked = own, every, 0
        self.peer.rpc.on_request(FindWeights, self._find)
        self.peer.rpc.on_request(GetWeights, self._get)

    async def _find(self, peer: bytes, message: FindWeights, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        return HasWeights(), [self._own.signed, pack_held(self._own.held())]

    async def _get(self, peer: bytes, message: GetWeights, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        data = self._own.read(message.tensor, message.offset, message.num_bytes)
        self.num_asked += 1
        if self.num_asked % self._every == 0:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return Weights(), [data]


@pytest.mark.parametrize("every", [1, 5])
async def test_a_member_that_gives_wrong_bytes_is_left_and_they_come_from_elsewhere(
    every: int, alice: Alice, town: Town
) -> None:
    """Layers alone, where no hash of a file would tell."""
    mallory = Mallory(town, every)
    async with hub_of(demo_target()) as hub:
        hub.bytes_per_s = 1e6  # most of it would come from her
        path = await pull(alice, town, hub, await town.who_has(mallory.peer), (0, 8))
    cut(demo_target(), 0, 8, path.with_name("cut"))
    assert path.read_bytes() == path.with_name("cut").read_bytes()
    assert mallory.num_asked >= every
    assert f"{mallory.peer.name} is left: gave wrong bytes of" in alice.words
    await town.close(mallory.peer)


def lying(model: Tensors, name: str) -> Tensors:
    places = {key: replace_hash(place) if key == name else place for key, place in model.places.items()}
    return msgspec.structs.replace(model, places=places)


def replace_hash(place: Place) -> Place:
    return msgspec.structs.replace(place, sha256="00" * 32)


async def test_what_the_hub_says_twice_outweighs_a_manifest(alice: Alice, town: Town) -> None:
    """Then nothing that came from members counts any more."""
    mallory = town.giver("mallory", lying(town.model, "blk.3.ffn_up.weight"))
    members = [replace(one, tensors=one.tensors - {"blk.3.ffn_up.weight"}) for one in await town.who_has(mallory)]
    async with hub_of(demo_target()) as hub:
        path = await pull(alice, town, hub, members, (3, 5))
    cut(demo_target(), 3, 5, path.with_name("cut"))
    assert path.read_bytes() == path.with_name("cut").read_bytes()
    assert "the source's own bytes of blk.3.ffn_up.weight, fetched twice, are not what the manifest says" in alice.words
    assert alice.steps.get(mallory.name, 0) == 0
    tensors = kept(path.parent)
    assert tensors is not None and tensors.signed == b""
    await town.close(mallory)


async def test_who_contradict_each_other_are_not_believed(town: Town) -> None:
    bob, mallory = town.giver("bob"), town.giver("mallory", lying(town.model, "output_norm.weight"))
    hashes, words = agreed(await town.who_has(bob, mallory))
    assert hashes.keys() == town.model.places.keys() - {"output_norm.weight"}
    assert len(words) == 1 and "say different hashes of output_norm.weight" in words[0]
    await town.close(bob, mallory)


async def test_a_model_of_another_id_cannot_be_passed_off(town: Town) -> None:
    """Its files' hashes are what the id is made of."""
    files = tuple((name, size, "11" * 32) for name, size, _ in town.model.files)
    bob = Identity.generate()
    other = holding(msgspec.structs.replace(town.model, files=files), Path(), bob)
    with pytest.raises(PeerMisbehaved, match="a manifest of another model than was asked for"):
        open_manifest(other.signed, town.model.weights_hash)
    signed = bytearray(sign_manifest(bob, other.manifest))
    signed[-1] ^= 1
    with pytest.raises(PeerMisbehaved, match="a wrong signature"):
        open_manifest(bytes(signed), other.manifest.weights_hash)


async def test_what_alice_pulled_she_gives_in_turn(alice: Alice, town: Town) -> None:
    """Layers, by bob's word who has the whole file; and dave, who asks her, needs no hub at all."""
    bob = town.giver("bob")
    async with hub_of(demo_target()) as hub:
        path = await pull(alice, town, hub, await town.who_has(bob), (2, 5))
    await town.close(bob)
    tensors = kept(path.parent)
    assert tensors is not None and not tensors.whole
    assert open_manifest(tensors.signed, tensors.weights_hash).public_key == bob.identity.public_key
    anna = town.giver("anna", tensors, path.parent)
    members = await town.who_has(anna)
    assert [one.manifest.whole for one in members] == [True]
    dave = Alice(Store(alice.store.folder.parent.parent / "dave"))
    one = await from_members.prepare(
        dave.store, town.alice.rpc, members, (3, 5), tensors.weights_hash, dave.said.append
    )
    made = await one.run(dave.said.append, dave, town.alice.rpc, members)
    cut(demo_target(), 3, 5, path.with_name("cut"))
    assert made.read_bytes() == path.with_name("cut").read_bytes() and dave.steps.keys() == {"before", anna.name}
    with pytest.raises(ModelRefused):
        await from_members.prepare(dave.store, town.alice.rpc, [], None, tensors.weights_hash, dave.said.append)
    await town.close(anna)


async def test_a_whole_model_from_members_alone(alice: Alice, town: Town) -> None:
    bob = town.giver("bob")
    members = await town.who_has(bob)
    one = await from_members.prepare(alice.store, town.alice.rpc, members, None, town.model.weights_hash, print)
    path = await one.run(alice.said.append, alice, town.alice.rpc, members)
    assert path.read_bytes() == demo_target().read_bytes() and path.name == "demo-target.gguf"
    await town.close(bob)


async def test_gated_models_are_not_handed_on(alice: Alice) -> None:
    async with hub_of(demo_target()) as hub:
        hub.is_gated_now = True
        path = await alice.pull(hub, layers=(2, 5))
    assert kept(path.parent) is None


@pytest.mark.parametrize(
    "asked",
    [
        GetWeights("0" * 64, "output_norm.weight", 0, 8),
        GetWeights("", "no such tensor", 0, 8),
        GetWeights("", "blk.0.attn_norm.weight", 0, 1 << 16),
        GetWeights("", "output_norm.weight", 1 << 59, 8),
    ],
)
async def test_what_is_not_here_is_refused(asked: GetWeights, town: Town) -> None:
    bob = town.giver("bob")
    asked = msgspec.structs.replace(asked, weights_hash=asked.weights_hash or town.model.weights_hash)
    answer, _ = await town.alice.rpc.request(bob.identity.peer_id, asked, timeout_s=5)
    assert isinstance(answer, Refused) and not answer.retry
    await town.close(bob)


async def test_the_cap_holds_and_a_greedy_member_waits_for_its_turn(town: Town) -> None:
    """Carol, in another network, asks for one piece while mallory has asked for thirty."""
    rate = 4e6
    bob, carol = town.giver("bob", rate=rate), town.peer("carol")
    mallory = town.peer("mallory")
    carol.rpc.transport.source, mallory.rpc.transport.source = "192.0.2.1", "198.51.100.1"  # type: ignore[attr-defined]
    for one in (carol, mallory):
        one.rpc.transport.introduce(bob.rpc.transport.contact)
    wanted = GetWeights(town.model.weights_hash, "token_embd.weight", 0, 1 << 17)
    loop = asyncio.get_running_loop()
    began = loop.time()
    many = [asyncio.create_task(mallory.rpc.request(bob.identity.peer_id, wanted, timeout_s=20)) for _ in range(30)]
    await many[0]  # and all the others wait
    await carol.rpc.request(bob.identity.peer_id, wanted, timeout_s=20)
    num_before = sum(one.done() for one in many)
    answers = await asyncio.gather(*many)
    took_s = loop.time() - began
    assert num_before <= 10 and all(isinstance(answer, Weights) for answer, _ in answers)
    assert 31 * (1 << 17) / took_s < 1.4 * rate  # the first quarter of a second is free
    await town.close(bob, carol, mallory)


def test_a_bitmap_of_what_is_here() -> None:
    held = [True, False, True, *[False] * 6, True]
    assert unpack_held(pack_held(held), len(held)) == held
    with pytest.raises(PeerMisbehaved):
        unpack_held(pack_held(held), 17)


def test_a_holding_tells_what_it_has(town: Town) -> None:
    some = msgspec.structs.replace(
        town.model, places={"output_norm.weight": town.model.places["output_norm.weight"]}, whole=False
    )
    one: Holding = holding(some, Path(), Identity.generate())
    assert one.held() == [True] and not one.manifest.whole


async def test_what_members_gave_counts_no_more_once_nobody_tells_its_hash(alice: Alice, town: Town) -> None:
    """Mallory is gone when alice goes on, and with her the word that her bytes were right."""
    mallory = Mallory(town)
    async with hub_of(demo_target()) as hub:
        members = await town.who_has(mallory.peer)
        async with alice.pulling(hub, SOURCE, (0, 8)) as one:
            target = Target(alice.store.begin(one._entry()), one.plan)
            for index in range(4):
                target.write(index, bytes(one.plan.blocks[index].size_bytes), f"peer {members[0].name}")
            target.close()
        path = await pull(alice, town, hub, [], (0, 8))
    cut(demo_target(), 0, 8, path.with_name("cut"))
    assert path.read_bytes() == path.with_name("cut").read_bytes() and alice.steps["before"] > 0
    await town.close(mallory.peer)


async def test_who_asks_for_more_than_is_soon_given_is_told_to_come_later(town: Town) -> None:
    bob = town.giver("bob", rate=10_000)  # 15 s are 150 kB
    wanted = GetWeights(town.model.weights_hash, "token_embd.weight", 0, 100_000)
    first = asyncio.create_task(town.alice.rpc.request(bob.identity.peer_id, wanted, timeout_s=9))
    await first
    answers = await asyncio.gather(
        *(town.alice.rpc.request(bob.identity.peer_id, wanted, timeout_s=0.3) for _ in range(3)), return_exceptions=True
    )
    refused = [one[0] for one in answers if isinstance(one, tuple)]
    assert refused and all(isinstance(one, Refused) and one.retry for one in refused)
    await town.close(bob)
