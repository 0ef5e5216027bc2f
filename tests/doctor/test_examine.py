"""Alice's machine is looked at, and those whom she would join are called: real sockets, and files of hers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from dsdnode.config import NodeConfig, write_joins
from dsdnode.doctor.examine import examine
from dsdnode.doctor.facts import Answer, Facts, Member
from dsdnode.doctor.findings import findings
from dsdnode.doctor.look import at_files, who_listens
from dsdnode.identity import Identity, load_or_create
from dsdnode.net.handshake import swarm_names
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.node.status import Situation
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.info import ReachInfo
from dsdnode.wire.joins import format_join
from dsdnode.wire.messages import Contact

CAROL, MALLORY = (Identity(name.ljust(32)) for name in (b"carol", b"mallory"))
HERE = "tcp://127.0.0.1:0"
RUNS = Situation("tcp://127.0.0.1:1", (), (), ReachInfo())
Begin = Callable[..., Awaitable[Contact]]


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Carol, with a swarm key if there is one."""
    begun: list[tuple[Discovery, Rpc]] = []

    async def carol(*swarm_keys: str) -> Contact:
        transport = await ZmqTransport.open(CAROL, listen=HERE, swarm_keys=swarm_keys)
        rpc = Rpc(transport)
        begun.append((Discovery(rpc, CAROL, Random(1)), rpc))
        rpc.start()
        begun[-1][0].start()
        return transport.contact

    yield carol
    for discovery, rpc in begun:
        await discovery.close()
        await rpc.close()


def closed() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


def config_of(folder: Path, *joins: Contact, **more: object) -> NodeConfig:
    named = tuple(map(format_join, joins))
    return NodeConfig(roles=("bootstrap",), listen=HERE, joins=named, data_dir=folder, **more)  # type: ignore[arg-type]


async def called(folder: Path, contact: Contact, **more: object) -> Member:
    """As a node of alice's that runs has it called."""
    config = config_of(folder, **more)
    (member,) = (await examine(config, Situation(HERE, (), (format_join(contact),), ReachInfo()))).members
    return member


async def test_where_no_node_runs_one_is_tried_and_carol_says_where_she_reaches_it(
    begin: Begin, tmp_path: Path
) -> None:
    facts = await examine(config_of(tmp_path, await begin()), None)
    assert facts.members[0].greeted and facts.members[0].tried[0].answer is Answer.OPEN
    assert facts.reach is not None and facts.reach.is_known and facts.reach.num_peers == 1
    assert [one.reached for one in facts.reach.addresses] == [True] and facts.reach.seen_at == ("127.0.0.1",)
    assert facts.listening.where == facts.reach.addresses[0].address
    told = {one.kind: one.says for one in findings(facts)}
    assert "answers" in told["join"] and facts.listening.where in (told.get("reached") or told["reached-near"])


async def test_a_member_is_told_by_how_far_a_call_of_it_gets(begin: Begin, tmp_path: Path) -> None:
    carol = await begin("the right key")
    wrong = await called(tmp_path, carol, swarm_keys=("another key",))
    assert not wrong.greeted and "wrong swarm key" in wrong.trouble
    assert (await called(tmp_path, carol, swarm_keys=("the right key",))).greeted
    impostor = await called(tmp_path, Contact(MALLORY.public_key, carol.addresses), swarm_keys=("the right key",))
    assert impostor.tried[0].answer is Answer.OPEN and "does not have the key" in impostor.trouble
    shut = await called(tmp_path, Contact(CAROL.public_key, (f"tcp://127.0.0.1:{closed()}",)))
    assert shut.tried[0].answer is Answer.REFUSED and not shut.greeted


async def test_alice_s_own_node_is_none_that_she_could_join(tmp_path: Path) -> None:
    own = load_or_create(tmp_path / "identity.key")
    assert (await called(tmp_path, Contact(own.public_key, ("tcp://127.0.0.1:1",)))).is_self


async def test_without_a_member_named_those_are_called_that_were_known_last(begin: Begin, tmp_path: Path) -> None:
    write_joins(tmp_path, (format_join(await begin()), "nonsense"), swarm_names(()))
    facts = await examine(config_of(tmp_path), RUNS)
    assert [(one.named, one.greeted) for one in facts.members] == [(False, True)]


async def test_a_port_that_is_taken_is_no_reason_to_call_nobody(begin: Begin, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        config = NodeConfig(
            roles=("bootstrap",),
            listen=f"tcp://127.0.0.1:{port}",
            joins=(format_join(await begin()),),
            data_dir=tmp_path,
        )
        facts = await examine(config, None)
        assert "in use" in facts.listening.trouble and "process" in who_listens(port)
    assert facts.reach is None and facts.members[0].greeted
    assert kinds(facts)[0] == "port-in-use"


def kinds(facts: Facts) -> list[str]:
    return [one.kind for one in findings(facts)]


def test_files_that_cannot_be_used_are_told_and_none_is_made(tmp_path: Path) -> None:
    fresh = at_files(NodeConfig(data_dir=tmp_path / "new" / "data"))
    assert not fresh.trouble and fresh.free_bytes and [one.trouble for one in fresh.models] == ["", ""]
    assert not (tmp_path / "new").exists()
    gone = at_files(NodeConfig(roles=("shard",), model=tmp_path / "gone.gguf", data_dir=tmp_path))
    assert "gone.gguf" in gone.models[0].trouble
    (tmp_path / "identity.key").write_text("no key")
    assert "identity file" in at_files(NodeConfig(data_dir=tmp_path)).trouble
    (tmp_path / "identity.key").unlink()
    tmp_path.chmod(0o770)
    assert "others may write" in at_files(NodeConfig(data_dir=tmp_path)).trouble
    (tmp_path / "file").touch()
    assert "is a file" in at_files(NodeConfig(data_dir=tmp_path / "file")).trouble
