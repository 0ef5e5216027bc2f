"""What of her store alice gives to other members, while she pulls more."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dsdnode.config import NodeConfig
from dsdnode.identity import Identity
from dsdnode.models import demo_target
from dsdnode.net.memory import MemoryHub
from dsdnode.net.rpc import Rpc
from dsdnode.node import giving
from dsdnode.node.admission import Admission
from dsdnode.weights import plan
from dsdnode.weights.holdings import Tensors, hashed, kept
from dsdnode.weights.store import TENSORS, Store
from dsdnode.wire.messages import Contact
from tests.weights.hub import hub_of
from tests.weights.test_pull import BLOCK_BYTES, Alice


async def test_layers_that_come_later_are_given_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(giving, "LOOK_AGAIN_S", -1.0)
    identity = Identity(b"alice".ljust(32))
    config = NodeConfig(roles=("shard",), data_dir=tmp_path)
    rpc = Rpc(MemoryHub().transport(Contact(identity.public_key, ())))
    own = giving.Giving(config, identity, rpc, Admission())
    alice = Alice(Store(tmp_path))
    async with hub_of(demo_target()) as hub:
        few = kept((await alice.pull(hub, layers=(2, 4))).parent)
        assert few is not None
        held = own.find(few.weights_hash)
        assert held is not None and sum(held.held()) == len(few.places)
        more = kept((await alice.pull(hub, layers=(0, 6))).parent)
    held = own.find(few.weights_hash)
    assert more is not None and held is not None
    assert sum(held.held()) == len(more.places) > len(few.places)


async def test_a_model_is_given_whose_name_no_message_can_bear(tmp_path: Path) -> None:
    model = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.gguf"))
    shutil.copyfile(demo_target(), model)  # (a link is known by what it leads to)
    identity = Identity(b"alice".ljust(32))
    rpc = Rpc(MemoryHub().transport(Contact(identity.public_key, ())))
    own = giving.Giving(NodeConfig(model=model, data_dir=tmp_path), identity, rpc, Admission())
    await own._learn()
    held = own._own
    assert held is not None and own.find(held.manifest.weights_hash) is held
    assert [file.name for file in held.manifest.files] == ["caf_.gguf"]
    assert held.read("#0", 0, 4) == b"GGUF"


async def test_what_alice_has_removed_she_does_not_say_that_she_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """She had all of it, and has pulled some of its layers since."""
    monkeypatch.setattr(giving, "LOOK_AGAIN_S", -1.0)
    identity = Identity(b"alice".ljust(32))
    rpc = Rpc(MemoryHub().transport(Contact(identity.public_key, ())))
    own = giving.Giving(NodeConfig(roles=("shard",), data_dir=tmp_path), identity, rpc, Admission())
    alice = Alice(Store(tmp_path))
    async with hub_of(demo_target()) as hub:
        whole = kept((await alice.pull(hub)).parent)
        assert whole is not None
        held = own.find(whole.weights_hash)
        assert held is not None and all(held.held())
        alice.store.remove(alice.store.entries()[0].name)
        assert own.find(whole.weights_hash) is None
        few = kept((await alice.pull(hub, layers=(0, 2))).parent)
    held = own.find(whole.weights_hash)
    assert few is not None and held is not None and held.places == few.places
    assert len(held.read("blk.0.attn_q.weight", 0, 1000)) == 1000


async def test_nor_what_she_wrote_to_while_her_node_was_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving, "LOOK_AGAIN_S", -1.0)
    identity = Identity(b"alice".ljust(32))
    rpc = Rpc(MemoryHub().transport(Contact(identity.public_key, ())))
    async with hub_of(demo_target()) as hub:
        path = await Alice(Store(tmp_path)).pull(hub)
    tensors = kept(path.parent)
    assert tensors is not None
    config = NodeConfig(roles=("shard",), data_dir=tmp_path)
    assert giving.Giving(config, identity, rpc, Admission()).find(tensors.weights_hash) is not None
    written_ns = (path.parent / TENSORS).stat().st_mtime_ns
    os.utime(path, ns=(written_ns, written_ns + 10**9))
    assert giving.Giving(config, identity, rpc, Admission()).find(tensors.weights_hash) is None


async def test_a_file_that_alice_writes_to_is_given_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes would pass for a lie of hers."""
    monkeypatch.setattr(giving, "LOOK_AGAIN_S", 1000.0)
    model = tmp_path / "model.gguf"
    shutil.copyfile(demo_target(), model)
    identity = Identity(b"alice".ljust(32))
    rpc = Rpc(MemoryHub().transport(Contact(identity.public_key, ())))
    own = giving.Giving(NodeConfig(model=model, data_dir=tmp_path), identity, rpc, Admission())
    await own._learn()
    assert own._own is not None
    weights_hash = own._own.manifest.weights_hash
    held = own.find(weights_hash)
    assert held is not None and len(held.read("blk.5.attn_q.weight", 0, 1000)) == 1000
    with model.open("r+b") as file:
        file.write(bytes(4))
    os.utime(model, (1, 1))  # clocks of disks are coarse
    with pytest.raises(OSError, match="it has changed since it was hashed"):
        held.read("blk.5.attn_q.weight", 0, 1000)
    assert own.find(weights_hash) is held
    monkeypatch.setattr(giving, "LOOK_AGAIN_S", -1.0)
    assert own.find(weights_hash) is None


async def test_a_file_that_is_written_to_while_it_is_hashed_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(demo_target(), model)
    identity = Identity(b"alice".ljust(32))
    rpc = Rpc(MemoryHub().transport(Contact(identity.public_key, ())))
    own = giving.Giving(NodeConfig(model=model, data_dir=tmp_path), identity, rpc, Admission())

    async def hashed_meanwhile(path: Path) -> Tensors:
        tensors = await hashed(path)
        os.utime(path, (1, 1))
        return tensors

    monkeypatch.setattr(giving, "hashed", hashed_meanwhile)
    await own._learn()
    assert own._own is None
