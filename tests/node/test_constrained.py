"""Constrained replies through whole nodes: the text of plain decoding under the same masks, whatever is drafted and
whoever is lost on the way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cachetools import LRUCache

from dsdnode.client import constraints
from dsdnode.client.client import Client, Finished, GenerateRequest, ReplyStats
from dsdnode.engine.fake import FakeTextEngine
from dsdnode.engine.permits import FoundMasks
from dsdnode.errors import BadInput, ModelRefused, NoPipeline
from dsdnode.net.memory import MemoryTransport
from dsdnode.net.port import MASKS, Priority
from dsdnode.node.drafter import constrained
from dsdnode.node.drafter.constrained import Constrained
from dsdnode.node.drafter.host import DrafterHost
from dsdnode.node.shard.host import StageHost
from dsdnode.speculation.digest import CommittedLine
from dsdnode.speculation.masks import hash_of, pack
from dsdnode.wire.codec import encode_body
from dsdnode.wire.masks import Masks as MasksMessage
from dsdnode.wire.masks import PackedMask
from dsdnode.wire.messages import Block
from dsdnode.wire.replies import Constraint, GenerateBody
from tests.node.constrained import constrained_reply
from tests.node.swarm import FakeSwarm
from tests.node.test_drafter_host import story

PROMPT = (5, 17, 42, 8, 17, 23)
EXPRESSION = "[ab]{3,9}(cd|ce)[0-9]{20,60}z"
ASKED = GenerateRequest(
    prompt_tokens=PROMPT, max_tokens=120, temperature=0.8, seed=4, draft_max=8, window="stream:3:8", keep=True,
    constraint=constraints.regex(EXPRESSION),
)  # fmt: skip
WINDOWS = ((0, ""), (8, "fixed"), (8, "stream:3:8"), (8, "hedged:2:8:2"))


class Heard:
    def __init__(self, alice: Client, request: GenerateRequest) -> None:
        self.request = request
        self.tokens: list[int] = []
        self._events = alice.generate(request)

    async def some(self, num_tokens: int) -> None:
        while len(self.tokens) < num_tokens:
            event = await anext(self._events)
            assert not isinstance(event, Finished)
            self.tokens.extend(event.tokens)

    async def all(self) -> ReplyStats:
        """And it is what it must be."""
        async for event in self._events:
            if isinstance(event, Finished):
                assert self.tokens == await constrained_reply(self.request)
                assert (event.reason == "stop") == (len(self.tokens) < self.request.max_tokens)
                return event.stats
            self.tokens.extend(event.tokens)
        raise AssertionError("a reply ends with Finished")


async def ring(swarm: FakeSwarm, *spare: tuple[str, tuple[int, int]]) -> Client:
    await swarm.add("dora", drafts=True)
    for name, layers in (("sam", (0, 2)), ("sue", (2, 4)), *spare):
        await swarm.add(name, layers=layers)
    return await swarm.client(patience_s=20)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_alice_gets_the_text_of_plain_decoding_with_every_window(tmp_path: Path, temperature: float) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        for window, policy in WINDOWS:
            heard = Heard(alice, replace(ASKED, temperature=temperature, draft_max=window, window=policy))
            stats = await heard.all()
            assert re.fullmatch(EXPRESSION, "".join(chr(32 + token) for token in heard.tokens))
            assert (stats.accepted > 5) == (window > 0), "the draft model draws under the same"

    story(tmp_path, tell)


@pytest.mark.parametrize("victim", ["sam", "sue", "dora"])
def test_whoever_dies_the_text_keeps_to_the_grammar(tmp_path: Path, victim: str) -> None:
    """Ruth and tom take a stage's place, don the drafter's: he reads the tokens so far by the grammar."""

    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        longer = constraints.regex("[ab]{3,9}(cd|ce)[0-9]{120,150}z")
        heard = Heard(alice, replace(ASKED, constraint=longer, max_tokens=200))
        await heard.some(10)
        await swarm.add("ruth", layers=(2, 4))
        await swarm.add("tom", layers=(0, 2))
        await swarm.add("don", drafts=True)
        await swarm.kill(victim)
        assert (await heard.all()).recoveries > 0

    story(tmp_path, tell)


def test_each_turn_has_its_own_grammar_and_costs_what_is_new(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        line: tuple[int, ...] = PROMPT
        for number, wanted in enumerate(("[ab]{19}", "[cd]{19}", "(e|f|gh){19}")):
            heard = Heard(alice, replace(ASKED, prompt_tokens=line, constraint=constraints.regex(wanted)))
            stats = await heard.all()
            assert not number or stats.prompt_tokens_reused >= len(line) - 4
            line = (*line, *heard.tokens, 7, 8, 9)

    story(tmp_path, tell)


def test_masks_that_are_lost_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are lost, and sometimes the judge forgets all that it had."""
    true, num, rng = StageHost._masks, 0, Random(3)

    def forgetful(self: StageHost, peer: bytes, message: MasksMessage, buffers: list[bytes]) -> None:
        nonlocal num
        num += 1
        if rng.random() < 0.7:
            true(self, peer, message, buffers)
        session = self._sessions.get(message.session)
        places = session.machine._judge.places if session is not None else None
        if places is not None and rng.random() < 0.2:
            places.masks._kept.clear()

    monkeypatch.setattr(StageHost, "_masks", forgetful)

    async def tell(swarm: FakeSwarm) -> None:
        await Heard(await ring(swarm), replace(ASKED, constraint=constraints.regex("[ab]{3}c{1,5}[d-m]{4}z"))).all()
        assert num > 10

    story(tmp_path, tell)


def test_a_judge_that_asks_for_masks_all_the_time_gets_them_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sue, a judge of mallory's, would have dora pack and send them, and do nothing else."""
    true, num_sent, num_asked = Constrained._send_one, 0, 0

    def counted(self: Constrained, head: list[bytes], packed: list[PackedMask]) -> None:
        nonlocal num_sent, num_asked
        num_sent += len(packed)
        true(self, head, packed)
        names = tuple(one.name for one in packed)
        if names:
            for _ in range(50):
                num_asked += len(names)
                self.tell_again(names)

    monkeypatch.setattr(Constrained, "_send_one", counted)

    async def tell(swarm: FakeSwarm) -> None:
        await Heard(await ring(swarm), ASKED).all()
        assert 0 < num_sent < num_asked // 20

    story(tmp_path, tell)


def test_a_judge_cannot_lack_what_it_was_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sue, a judge of mallory's, makes names up; what she was told is packed for her once."""
    sent: list[list[bytes]] = []

    class Told:
        def notify(self, peer: bytes, message: MasksMessage, buffers: list[bytes], priority: Priority) -> None:
            sent.append(buffers)

    mask, num_packed = bytes([0xFF] * 13), 0

    class Letters:
        async def masks(self, tokens: Any, first: int, again: bool = False) -> FoundMasks:
            return FoundMasks([hash_of(mask)], [(hash_of(mask), mask)])

    def counted(one: bytes, bases: Any = ()) -> bytes:
        nonlocal num_packed
        num_packed += 1
        return pack(one, bases)

    monkeypatch.setattr(constrained, "pack", counted)

    async def tell() -> None:
        alice = Constrained(Told(), Letters(), b"s" * 16, b"k" * 32, PROMPT, 97, print)  # type: ignore[arg-type]
        block = Block(b"s" * 16, 0, 1, 0, 0, len(PROMPT) - 1, 1, 0, 0)
        before, end = CommittedLine(b"k" * 32, PROMPT).digests[-2:]
        alice.tell(block, before + end, PROMPT[-1:], b"sue", LRUCache(9))
        await asyncio.gather(*alice._telling)
        assert len(sent) == 1
        for _ in range(9):
            alice.tell_again([bytes([one]) * 8 for one in range(1, 200)])
        assert len(sent) == 1 and not alice._lost
        for _ in range(9):
            alice._lost.clear()
            alice.tell_again([hash_of(mask)])
        assert len(sent) == 10 and all(pack(mask) in one[2] for one in sent) and num_packed == 2
        alice.close()

    asyncio.run(tell())


def test_what_was_copied_and_may_not_stand_is_not_asked_about_twice() -> None:
    """A grammar that is asked what may stand behind it is read anew."""
    mask, asked, failed = bytes([0xFF, *([0] * 12)]), list[tuple[list[int], int]](), list[Exception]()

    class Ignore:
        def notify(self, *_: Any, **__: Any) -> None:
            """Nobody listens."""

    class FirstEight:
        async def masks(self, tokens: Any, first: int, again: bool = False) -> FoundMasks:
            asked.append((tokens, first))
            num = next((index for index, token in enumerate(tokens[first:]) if token > 7), len(tokens) - first)
            return FoundMasks([hash_of(mask)] * (num + 1), [(hash_of(mask), mask)])

    async def tell() -> None:
        alice = Constrained(Ignore(), FirstEight(), b"s" * 16, b"k" * 32, PROMPT, 97, failed.append)  # type: ignore[arg-type]
        copied = (5, 3, 50, 51)
        block = Block(b"s" * 16, 0, 1, 0, 0, len(PROMPT) - 1, 1, len(copied), 0)
        digests = CommittedLine(b"k" * 32, (*PROMPT, *copied)).digests[-len(copied) - 2 :]
        alice.tell(block, b"".join(digests), (PROMPT[-1], *copied), b"sue", LRUCache(9))
        await asyncio.gather(*alice._telling)
        assert asked == [(list(copied), 0)] and not failed
        assert [alice.allows(digests[index + 1], token) for index, token in enumerate(copied)] == [
            True,
            True,
            False,
            True,
        ]
        assert alice.dead_end(digests[4]) is not None, "behind it nothing can stand"
        alice.close()

    asyncio.run(tell())


def test_a_judge_that_draws_without_masks_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sue, a judge of mallory's: what she says is not committed, and ruth takes her place."""

    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm, ("ruth", (2, 4)))
        sue = swarm.members["sue"].shard
        assert sue is not None
        forward = sue.forward

        async def lying(chunks: Any) -> Any:
            return await forward([replace(chunk, masks=()) for chunk in chunks])

        monkeypatch.setattr(sue, "forward", lying)
        for seed in range(3):
            stats = await Heard(alice, replace(ASKED, keep=False, seed=seed)).all()
            assert stats.pipeline[-1].peer_id == swarm.members["ruth"].node.peer_id.hex()

    story(tmp_path, tell)


def test_nobody_but_the_owner_tells_a_judge_its_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory knows the session, and the digests: she would have alice's text be hers."""
    true = Constrained._send
    mask = bytes([0xFF] * 13)

    async def tell(swarm: FakeSwarm) -> None:
        alice, mallory = await ring(swarm), swarm.stranger("mallory")
        judge = swarm.members["sue"].node.peer_id

        def overheard(self: Constrained, places: list[bytes]) -> None:
            true(self, places)
            body = [PackedMask(hash_of(mask), pack(mask))]
            buffers = [b"".join(places), hash_of(mask) * len(places), encode_body(body)]
            mallory.notify(judge, MasksMessage(self._session), buffers, priority=Priority.VERIFY)

        monkeypatch.setattr(Constrained, "_send", overheard)
        mallory.warm(judge)
        await asyncio.sleep(1)
        assert (await Heard(alice, replace(ASKED, draft_max=0, window="")).all()).recoveries == 0

    story(tmp_path, tell)


def unable(monkeypatch: pytest.MonkeyPatch, swarm: FakeSwarm, *names: str) -> None:
    """They are of an older version."""
    old = {swarm.members[name].node.peer_id for name in names}
    monkeypatch.setattr(MemoryTransport, "can", lambda self, peer, what: what != MASKS or peer not in old)


def test_an_older_judge_is_gone_round_and_other_older_stages_are_none_the_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm, ("ruth", (2, 4)))
        unable(monkeypatch, swarm, "sam", "sue")
        stats = await Heard(alice, ASKED).all()
        assert stats.pipeline[-1].peer_id == swarm.members["ruth"].node.peer_id.hex()
        unable(monkeypatch, swarm, "sue", "ruth")
        with pytest.raises(NoPipeline, match="under no masks"):
            await Heard(alice, replace(ASKED, keep=False)).all()

    story(tmp_path, tell)


def test_an_older_drafter_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        unable(monkeypatch, swarm, "dora")
        with pytest.raises(ModelRefused, match="knows no schemas"):
            await Heard(alice, ASKED).all()

    story(tmp_path, tell)


def test_who_cancels_while_the_schema_is_read_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true, reads, go = FakeTextEngine.constrain, asyncio.Event(), asyncio.Event()

    async def slow(self: FakeTextEngine, *asked: Any) -> Any:
        reads.set()
        await go.wait()
        return await true(self, *asked)

    monkeypatch.setattr(FakeTextEngine, "constrain", slow)
    begun: list[Constraint | None] = []
    begin = DrafterHost._begin

    def counted(self: DrafterHost, delivery: Any, body: GenerateBody, *rest: Any) -> None:
        begun.append(body.constraint)
        begin(self, delivery, body, *rest)

    monkeypatch.setattr(DrafterHost, "_begin", counted)

    async def tell(swarm: FakeSwarm) -> None:
        heard = asyncio.ensure_future(Heard(await ring(swarm), ASKED).all())
        await reads.wait()
        heard.cancel()
        await asyncio.sleep(1)
        go.set()
        await asyncio.sleep(1)
        assert not begun and swarm.members["dora"].node.status().sessions.drafter == 0

    story(tmp_path, tell)


WRONG: dict[str, Callable[[], GenerateRequest]] = {
    r'JSON schema .*"not"': lambda: replace(ASKED, constraint=constraints.json_schema({"not": {}})),
    "regular expression .*unclosed": lambda: replace(ASKED, constraint=constraints.regex("(a")),
    "ignore_eos": lambda: replace(ASKED, ignore_eos=True),
    "too large": lambda: replace(ASKED, constraint=constraints.regex("a" * 70_000)),
    "too deep": lambda: replace(ASKED, constraint=constraints.json_schema(_deep(70))),
    "is an object": lambda: replace(ASKED, constraint=constraints.json_schema([1])),
    "is empty": lambda: replace(ASKED, constraint=constraints.lark("")),
}


def _deep(levels: int) -> dict[str, Any]:
    return {"items": _deep(levels - 1)} if levels else {}


def test_what_cannot_be_kept_to_is_refused_in_words(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        for words, request in WRONG.items():
            with pytest.raises(BadInput, match=words):
                await Heard(alice, request()).all()

    story(tmp_path, tell)
