"""Where nothing can stand: a reply ends there if plain decoding does, and not where a draft alone leads."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cachetools import LRUCache

from dsdnode.client import constraints
from dsdnode.client.client import Client, GenerateRequest
from dsdnode.client.request import Finished
from dsdnode.engine.permits import FoundMasks
from dsdnode.errors import BadInput
from dsdnode.net.port import Priority
from dsdnode.node.drafter.constrained import Constrained
from dsdnode.speculation.digest import CommittedLine
from dsdnode.speculation.masks import allows, hash_of
from dsdnode.wire.masks import Masks as MasksMessage
from dsdnode.wire.messages import Block
from tests.node.constrained import constrained_tokens
from tests.node.swarm import FakeSwarm
from tests.node.test_constrained import ASKED, PROMPT, WINDOWS, Heard, ring
from tests.node.test_drafter_host import story

NUM_DEAD_ENDS = 9


@pytest.fixture
def eager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts that lead to a dead end, too, are sent: so are those that nobody has looked at yet."""
    true = Constrained.extend

    async def extend(self: Constrained, place: bytes, tokens: tuple[int, ...]) -> list[bytes]:
        masks = await true(self, place, tokens)
        for token in tokens[: len(masks)]:
            place = self._go_on(place, token) if place in self._nodes else place
        mask = self._masks.get(self._name(place))
        more = tokens[len(masks) :]
        return [*masks, mask] if more and mask is not None and allows(mask, more[0]) else masks

    if request.param:
        monkeypatch.setattr(Constrained, "extend", extend)


@pytest.mark.parametrize("eager", [False, True], indirect=True)
def test_a_dead_end_is_one_where_the_text_comes_there_and_not_where_a_draft_does(tmp_path: Path, eager: None) -> None:
    """Behind an i this model has no token for what follows: plain decoding goes there at some seeds, or ends before.
    What it said until there alice is told, whatever was drafted."""

    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        ends = Counter[bool]()
        for seed in range(NUM_DEAD_ENDS):
            asked = replace(ASKED, constraint=constraints.regex("([a-hk-z]|i\u2713){12}"), seed=seed, keep=False)
            plain, leads_there = list[int](), False
            try:
                async for token in constrained_tokens(asked):
                    plain.append(token)
            except BadInput:
                leads_there = True
            for window, policy in WINDOWS[1::2]:
                heard = Heard(alice, replace(asked, draft_max=window, window=policy))
                if leads_there:
                    with pytest.raises(BadInput, match="no token of this model"):
                        await heard.all()
                    assert heard.tokens == plain
                else:
                    await heard.all()
            ends[leads_there] += 1
        assert min(ends[True], ends[False]) > 2

    story(tmp_path, tell)


@pytest.mark.parametrize("eager", [True], indirect=True)
def test_what_stands_behind_where_alice_wants_it_to_end_is_no_trouble(tmp_path: Path, eager: None) -> None:
    """One verdict tells her last words, and of the dead end behind them."""

    async def text_of(alice: Client, asked: GenerateRequest) -> tuple[str, str]:
        text = reason = ""
        with contextlib.suppress(BadInput):
            async for event in alice.generate(asked):
                if isinstance(event, Finished):
                    reason = event.reason
                else:
                    text += event.text
        return text, reason

    async def tell(swarm: FakeSwarm) -> None:
        alice, num_there = await ring(swarm), 0
        for seed in range(NUM_DEAD_ENDS):
            asked = replace(ASKED, constraint=constraints.regex("([a-hk-z]|i\u2713){12}"), seed=seed, keep=False)
            plain, reason = await text_of(alice, replace(asked, draft_max=0))
            for window, policy in WINDOWS[1::2] if not reason else ():
                num_there += 1
                ends = replace(asked, draft_max=window, window=policy, stop=(plain[-2:],))
                assert await text_of(alice, ends) == (plain[: plain.index(plain[-2:])], "stop")
        assert num_there > 2

    story(tmp_path, tell)


def test_a_grammar_that_was_used_up_by_drafts_is_asked_again() -> None:
    """It says less than it knows: that is no dead end, which would end alice's reply where plain decoding goes on."""
    told: list[bytes] = []
    masks = [bytes([0xFF - length] * 13) for length in range(4)]

    class Told:
        def notify(self, peer: bytes, message: MasksMessage, buffers: list[bytes], priority: Priority) -> None:
            told.append(buffers[1])

    class Short:
        async def masks(self, tokens: Any, first: int, again: bool = False) -> FoundMasks:
            names = [hash_of(one) for one in masks[first : len(tokens) + 1]][:1]
            return FoundMasks(names, [(hash_of(one), one) for one in masks])

    async def tell() -> None:
        alice = Constrained(Told(), Short(), b"s" * 16, b"k" * 32, PROMPT, 97, print)  # type: ignore[arg-type]
        line = (*PROMPT, 7, 15, 23)
        block = Block(b"s" * 16, 0, 1, 0, 0, len(PROMPT) - 1, 1, 3, 0)
        digests = b"".join(CommittedLine(b"k" * 32, line).digests[-5:])
        alice.tell(block, digests, line[-4:], b"sue", LRUCache(9))
        await asyncio.gather(*alice._telling)
        assert told == [b"".join(map(hash_of, masks))]
        alice.close()

    asyncio.run(tell())
