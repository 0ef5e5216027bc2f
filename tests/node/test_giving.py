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
from dsdnode.weights.holdings import kept
from dsdnode.weights.store import Store
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
    (held,) = own._holdings.values()
    assert [file.name for file in held.manifest.files] == ["caf_.gguf"]
    assert held.read("#0", 0, 4) == b"GGUF"
