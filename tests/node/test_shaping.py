"""Penalties, biases and log-probabilities through whole nodes: what the whole model would say, whatever is drafted and
whoever is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.client import Client, Finished, GenerateRequest, Piece, ReplyStats
from dsdnode.errors import BadInput, ModelRefused, NoPipeline
from dsdnode.identity import peer_id
from dsdnode.net.memory import MemoryTransport
from dsdnode.net.port import SHAPING
from dsdnode.node.drafter.delivery import Delivery
from dsdnode.node.shard.host import StageHost
from dsdnode.speculation.actions import SendToOwner
from dsdnode.wire.logprobs import SaidPosition, TokenLogprobs
from dsdnode.wire.messages import Verdict
from tests.node.shaped import farthest, shaped_reply
from tests.node.swarm import TARGET, FakeSwarm
from tests.node.test_drafter_host import story

PROMPT = (5, 17, 42, 8, 17, 23)
MORE = (9, 3, 17, 30)
ASKED = GenerateRequest(
    prompt_tokens=PROMPT, max_tokens=40, temperature=0.6, seed=4, draft_max=8, ignore_eos=True, keep=True,
    presence_penalty=0.8, frequency_penalty=0.3, repetition_penalty=1.4, logit_bias={7: 1.5, 9: -100.0, 11: 0.5},
    logprobs=3,
)  # fmt: skip
PLAIN = replace(ASKED, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0, logit_bias={})
ALONE = {
    "presence": replace(PLAIN, presence_penalty=0.8),
    "frequency": replace(PLAIN, frequency_penalty=0.3),
    "repetition": replace(PLAIN, repetition_penalty=1.4),
    "the last 5": replace(PLAIN, repetition_penalty=1.4, repeat_last_n=5),
    "bias": replace(PLAIN, logit_bias=ASKED.logit_bias),
    "encouraged": replace(PLAIN, presence_penalty=-0.5, frequency_penalty=-0.2, repetition_penalty=0.9, temperature=0),
    "all": ASKED,
}
WINDOWS = ((0, ""), (8, "fixed"), (8, "stream:3:8"), (8, "hedged:2:8:2"))


class Heard:
    """A reply as it comes."""

    def __init__(self, client: Client, request: GenerateRequest) -> None:
        self.request = request
        self.tokens: list[int] = []
        self.positions: list[SaidPosition] = []
        self.stats: ReplyStats | None = None
        self._events: AsyncGenerator[Piece | Finished, None] = client.generate(request)

    async def some(self, num_tokens: int) -> None:
        while len(self.tokens) < num_tokens:
            self._take(await anext(self._events))

    async def all(self) -> ReplyStats:
        """And it is what it must be."""
        async for event in self._events:
            self._take(event)
        expected, logprobs = shaped_reply(TARGET, self.request)
        assert self.tokens == expected
        if self.request.logprobs < 0:
            assert not self.positions
        else:
            assert farthest(self.positions, expected, logprobs, self.request.logprobs) < 1e-4
        assert self.stats is not None
        return self.stats

    def _take(self, event: Piece | Finished) -> None:
        if isinstance(event, Finished):
            self.stats = event.stats
        else:
            self.tokens.extend(event.tokens)
            self.positions.extend(event.logprobs)


async def ring(swarm: FakeSwarm, *spare: tuple[str, tuple[int, int]]) -> Client:
    await swarm.add("dora", drafts=True)
    for name, layers in (("sam", (0, 2)), ("sue", (2, 4)), *spare):
        await swarm.add(name, layers=layers)
    return await swarm.client()


@pytest.mark.parametrize("name", ALONE)
def test_alice_gets_the_shaped_text_with_every_window(tmp_path: Path, name: str) -> None:
    assert shaped_reply(TARGET, ALONE[name])[0] != shaped_reply(TARGET, PLAIN)[0], "or this would show nothing"

    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        for window, policy in WINDOWS if name == "all" else WINDOWS[::2]:
            stats = await Heard(alice, replace(ALONE[name], draft_max=window, window=policy)).all()
            assert (stats.accepted > 5) == (window > 0), "the draft model draws under the same"

    story(tmp_path, tell)


@pytest.mark.parametrize("victim", ["sam", "sue", "dora"])
@pytest.mark.parametrize("name", ["presence", "the last 5", "all"])
def test_whoever_dies_the_text_and_its_figures_are_the_same(tmp_path: Path, victim: str, name: str) -> None:
    """Ruth and tom take a stage's place, don the drafter's: they are told what counts."""

    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        heard = Heard(alice, replace(ALONE[name], window="stream:3:8", max_tokens=120))
        await heard.some(12)
        await swarm.add("ruth", layers=(2, 4))
        await swarm.add("tom", layers=(0, 2))
        await swarm.add("don", drafts=True)
        await swarm.kill(victim)
        assert (await heard.all()).recoveries > 0

    story(tmp_path, tell)


def test_a_worker_dies_and_its_judge_knows_the_line_again(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        heard = Heard(alice, ASKED)
        for num_tokens in (10, 20, 30):
            await heard.some(num_tokens)
            engine = swarm.members["sue"].shard
            assert engine is not None
            engine.die()
        assert (await heard.all()).recoveries > 0

    story(tmp_path, tell)


def test_each_turn_counts_its_own_reply_and_costs_what_is_new(tmp_path: Path) -> None:
    """One without shaping in between: the judge has the line cached, and was told nothing of it."""

    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        line: tuple[int, ...] = PROMPT
        for number, asked in enumerate((ASKED, ALONE["presence"], PLAIN, ALONE["the last 5"], replace(ASKED, seed=9))):
            heard = Heard(alice, replace(asked, prompt_tokens=line, max_tokens=25))
            stats = await heard.all()
            assert not number or stats.prompt_tokens_reused >= len(line) - len(MORE) - 1
            line = (*line, *heard.tokens, *MORE)

    story(tmp_path, tell)


def test_several_at_once_are_shaped_each_by_its_own(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        asked = [replace(one, seed=seed, keep=False) for seed, one in enumerate((*ALONE.values(), PLAIN))]
        await asyncio.gather(*[Heard(await swarm.client(), one).all() for one in asked])

    story(tmp_path, tell)


def test_a_verdict_that_is_lost_costs_no_log_probability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other stages repeat what the judge has sealed, here with figures of their own: dora takes none but the judge's,
    and waits for those."""
    true, start, num_verdicts, num_begun = StageHost._carry_out, Delivery.start, 0, 0

    def counted(self: Delivery, *arguments: Any) -> None:
        nonlocal num_begun
        num_begun += 1
        start(self, *arguments)

    monkeypatch.setattr(Delivery, "start", counted)

    def forgetful(self: StageHost, session: Any, actions: list[Any]) -> None:
        nonlocal num_verdicts
        left = []
        for action in actions:
            if not (isinstance(action, SendToOwner) and isinstance(action.message, Verdict)):
                left.append(action)
            elif not session.last:
                token = action.message.token
                forged = TokenLogprobs(token, -7.0, ((token, -7.0),) * ASKED.logprobs)
                left.append(replace(action, logprobs=(forged,)))
            else:
                num_verdicts += 1
                if num_verdicts % 3:
                    left.append(action)
        true(self, session, left)

    monkeypatch.setattr(StageHost, "_carry_out", forgetful)

    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        for _, policy in WINDOWS[1:]:
            await Heard(alice, replace(ASKED, window=policy, max_tokens=30)).all()
        assert num_verdicts > 10
        assert num_begun == len(WINDOWS) - 1, "alice had to resume at dora"

    story(tmp_path, tell)


def test_a_judge_whose_log_probabilities_are_of_other_tokens_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sue, a judge of mallory's, would have alice take dora for the liar. Ruth takes her place."""

    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm, ("ruth", (2, 4)))
        true, sue = StageHost._carry_out, swarm.members["sue"].node.peer_id

        def lying(self: StageHost, session: Any, actions: list[Any]) -> None:
            if peer_id(self._rpc.transport.contact.public_key) == sue:
                actions = [
                    replace(one, logprobs=tuple(replace(row, token=row.token ^ 1) for row in one.logprobs))
                    if isinstance(one, SendToOwner)
                    else one
                    for one in actions
                ]
            true(self, session, actions)

        monkeypatch.setattr(StageHost, "_carry_out", lying)
        for seed in range(3):
            stats = await Heard(alice, replace(ASKED, keep=False, seed=seed)).all()
            assert stats.pipeline[-1].peer_id == swarm.members["ruth"].node.peer_id.hex()

    story(tmp_path, tell)


def unable(monkeypatch: pytest.MonkeyPatch, swarm: FakeSwarm, *names: str) -> None:
    """They are of an older version."""
    old = {swarm.members[name].node.peer_id for name in names}
    monkeypatch.setattr(MemoryTransport, "can", lambda self, peer, what: what != SHAPING or peer not in old)


def test_an_older_stage_is_gone_round_and_where_there_is_no_other_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm, ("ruth", (2, 4)))
        unable(monkeypatch, swarm, "sue")
        for _ in range(2):
            stats = await Heard(alice, replace(ASKED, keep=False)).all()
            assert stats.pipeline[-1].peer_id == swarm.members["ruth"].node.peer_id.hex()
        unable(monkeypatch, swarm, "sue", "ruth")
        with pytest.raises(NoPipeline, match="does not know penalties"):
            await Heard(alice, ASKED).all()
        await Heard(alice, replace(PLAIN, logprobs=-1)).all()

    story(tmp_path, tell)


def test_an_older_drafter_is_not_asked_and_where_there_is_no_other_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        await swarm.add("don", drafts=True)
        unable(monkeypatch, swarm, "dora")
        for _ in range(2):
            await Heard(alice, ALONE["bias"]).all()
        unable(monkeypatch, swarm, "dora", "don")
        with pytest.raises(ModelRefused, match="knows no penalties"):
            await Heard(alice, ASKED).all()
        await Heard(alice, replace(PLAIN, logprobs=-1)).all()

    story(tmp_path, tell)


WRONG: dict[str, dict[str, Any]] = {
    "presence_penalty": {"presence_penalty": 2.5},
    "frequency_penalty": {"frequency_penalty": float("nan")},
    "repetition_penalty": {"repetition_penalty": 0.0},
    "repeat_last_n": {"repeat_last_n": -2},
    "logprobs": {"logprobs": 21},
    "logprobs: they go": {"threshold": 0.3},
    "logit_bias": {"logit_bias": {3: 101.0}},
    "logit_bias: token 97": {"logit_bias": {97: 1.0}},
    "logit_bias has 301": {"logit_bias": dict.fromkeys(range(301), 1.0)},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_out_of_its_range_is_refused_by_name(tmp_path: Path, name: str) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await ring(swarm)
        with pytest.raises(BadInput, match=name):
            await Heard(alice, replace(ASKED, **WRONG[name])).all()

    story(tmp_path, tell)
