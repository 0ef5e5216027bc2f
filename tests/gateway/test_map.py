"""The map that the page draws, as JSON: bounded, and nothing of a stranger's in it that is not fit to be shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from dsdnode.client.client import GenerateRequest, Piece
from dsdnode.gateway import app
from dsdnode.gateway.doors import Rules
from dsdnode.gateway.map import MAX_MODELS, MAX_PEERS
from dsdnode.net.memory import MemoryTransport
from dsdnode.net.port import ROUTE
from dsdnode.node.ledger import Given, GivenInAll
from dsdnode.swarm.info import Newcomer, PeerInfo
from dsdnode.wire.replies import StageInfo
from tests.gateway.conftest import MODEL, WAIT, ScriptedSwarm, Served, hello
from tests.gateway.test_metrics import NODE
from tests.node.swarm import fake_swarm, tokens_of


def peer(number: int, **more: Any) -> PeerInfo:
    return PeerInfo(f"{number:064x}", ("tcp://192.0.2.7:1",), ("shard",), (0, 8), "demo", 1, 1.0, 0.0, **more)


async def test_who_is_there_what_lacks_and_what_one_more_would_bring(served: Served) -> None:
    newcomer = Newcomer(("drafter", "shard"), (4, 8), "4 of 8 layers are hosted by nobody", None, 12.0)
    served.swarm.known = [msgspec.structs.replace(MODEL, holes=((4, 8),), complete=False, newcomer=newcomer)]
    served.swarm.others = [peer(1, name="bob", link="relayed", slope_ms=0.5, model_ids=(MODEL.model_id,))]
    gave = GivenInAll(Given(5, 1, 70, 80), Given(6, 2, 90, 95), Given(7, 3, 100, 110))
    served.here = msgspec.structs.replace(NODE, peer_id=f"{1:064x}", resting="a \x1bgame", given=gave)
    told = (await served.http.get("/swarm")).json()
    (bob,), (model,) = told["peers"], told["models"]
    assert (bob["name"], bob["way"], bob["here"], bob["model_ids"]) == ("bob", "relayed", True, [model["id"]])
    assert model["holes"] == [[4, 8]] and model["newcomer"]["layers"] == [4, 8]
    assert told["node"]["sessions"]["shard"] == 1 and told["node"]["resting"] == "a ?game"
    assert [told["node"]["given"][span]["tokens"] for span in ("today", "month", "all")] == [5, 6, 7]
    assert "192.0.2.7" not in str(told), "where peers live is nobody's business on a page"


async def test_of_a_crowd_those_who_answer_are_told_of_and_names_are_cleaned(served: Served) -> None:
    served.swarm.others = [msgspec.structs.replace(peer(one), rtt_ms=None) for one in range(2 * MAX_PEERS)]
    served.swarm.others.append(peer(4 * MAX_PEERS, name="\x1b[31m\u202eeve" + "e" * 1000))
    served.swarm.known = [MODEL] * (MAX_MODELS + 5)
    told = (await served.http.get("/swarm")).json()
    assert len(told["peers"]) == MAX_PEERS and len(told["models"]) == MAX_MODELS
    assert told["left_off"] == MAX_PEERS + 1 + 5
    assert told["peers"][0]["name"].startswith("?[31m?eve") and len(told["peers"][0]["name"]) <= 400


async def test_a_reply_on_its_way_is_on_it_with_its_stages(served: Served) -> None:
    route = (StageInfo("cd" * 32, (0, 8)),)
    served.swarm.script = [Piece((7,), "Hel", 0, drafter=b"\xab" * 32, route=route), WAIT]
    asking = asyncio.create_task(served.http.post("/v1/chat/completions", json=hello()))
    async with asyncio.timeout(20):
        while not (flows := (await served.http.get("/swarm")).json()["replies"]) or not flows[0]["tokens"]:
            pass
    assert (flows[0]["drafter"], flows[0]["stages"]) == ("ab" * 6, [{"id": "cd" * 6, "layers": [0, 8]}])
    asking.cancel()
    async with asyncio.timeout(20):
        while (told := (await served.http.get("/swarm")).json())["replies"]:
            pass
    assert told["last"]["drafter"] == "ab" * 6


async def test_however_many_look_all_peers_are_pinged_once(served: Served) -> None:
    await asyncio.gather(*(served.http.get(path) for path in ("/swarm", "/metrics") * 20))
    assert 1 <= served.swarm.num_looks <= 2, "the second one after SEEN_S, on a slow machine"


@pytest.mark.parametrize("rules", [Rules("a key")])
async def test_only_the_page_itself_is_shown_without_the_key(served: Served) -> None:
    served.swarm.known = [msgspec.structs.replace(MODEL, complete=False, missing="layers 4:8")]
    for path in ("/", "/page/main.js", "/page/page.css"):
        answer = await served.http.get(path)
        assert answer.status_code == 200 and "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
    for path in ("/swarm", "/metrics", "/page/../swarm", "/page/..%2f..%2fdoors.py"):
        assert (await served.http.get(path)).status_code in (401, 404), path
    assert (await served.http.get("/swarm", headers={"authorization": "Bearer a key"})).status_code == 200
    asked = [await served.http.get("/health", headers=headers) for headers in ({}, {"x-api-key": "a key"})]
    assert [(answer.status_code, "demo: layers 4:8" in answer.text) for answer in asked] == [(503, False), (503, True)]


async def test_a_reply_tells_by_which_stages_it_comes_and_by_which_others_after_a_loss(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        for name in ("bob", "carol"):
            await swarm.add(name, layers=(0, 4))
        await swarm.add("dave", drafts=True)
        alice = await swarm.client()
        ids = {name: member.node.peer_id for name, member in swarm.members.items()}
        routes: list[tuple[StageInfo, ...]] = []
        async for event in alice.generate(GenerateRequest(prompt="hello", max_tokens=60, ignore_eos=True)):
            if isinstance(event, Piece) and event.tokens:
                assert event.drafter == ids["dave"]
                if not routes:
                    first = "bob" if event.route[0].peer_id == ids["bob"].hex() else "carol"
                    await swarm.kill(first)
                routes.append(event.route)
        second = "carol" if first == "bob" else "bob"
        assert routes[0] == (StageInfo(ids[first].hex(), (0, 4)),)
        assert routes[-1] == (StageInfo(ids[second].hex(), (0, 4)),)


async def test_an_older_client_hears_nothing_of_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count a strike for a message that it does not know."""
    monkeypatch.setattr(MemoryTransport, "can", lambda self, peer, capability: capability != ROUTE)
    async with fake_swarm(tmp_path) as swarm:
        await swarm.add("bob", layers=(0, 4))
        dave = await swarm.add("dave", drafts=True)
        alice = await swarm.client()
        await tokens_of(alice, GenerateRequest(prompt="hello", max_tokens=4))
        assert "Piece" in dave.node.status().sent and "Routed" not in dave.node.status().sent


async def test_what_a_reply_waits_for_is_told(served: Served) -> None:
    served.swarm.words, served.swarm.script = "waiting for layers 4:8", [WAIT]
    asking = asyncio.create_task(served.http.post("/v1/chat/completions", json=hello()))
    async with asyncio.timeout(20):
        while not (flows := (await served.http.get("/swarm")).json()["replies"]):
            pass
    assert flows[0]["waits"] == "waiting for layers 4:8"
    asking.cancel()


@pytest.mark.parametrize("path", ["/swarm", "/metrics"])
async def test_a_node_that_stands_still_is_not_waited_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice's is stopped, or her disk is: her map shows what others say."""
    monkeypatch.setattr(app, "HERE_S", 0.01)

    async def stands_still() -> None:
        await asyncio.Event().wait()

    asked = httpx.ASGITransport(app.make_app(ScriptedSwarm(), Rules(), stands_still))
    async with httpx.AsyncClient(transport=asked, base_url="http://localhost") as http, asyncio.timeout(5):
        answer = await http.get(path)
    assert answer.status_code == 200 and ("demo" in answer.text or "dsdnode_swarm_models" in answer.text)
