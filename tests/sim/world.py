"""One random world: clients ask a village for replies while troubles rage; what was wrong, lost, stuck or leaked."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NoReturn
from unittest.mock import patch

import structlog

from dsdnode.client.client import Client, Finished, GenerateRequest
from dsdnode.client.patience import MARGIN_S
from dsdnode.config import DEFAULT_PATIENCE_S, POSITION_PATIENCE_S
from dsdnode.engine.fake import fake_text
from dsdnode.errors import DsdError, Overloaded
from dsdnode.node.drafter import reply as generate
from dsdnode.node.drafter.conversations import PARKED_S
from dsdnode.sim.loop import JumpingLoop, Unreal, run
from dsdnode.speculation.controller import WindowController
from dsdnode.speculation.owner.session import SessionConfig, SessionMachine
from dsdnode.speculation.sampling import Sampling
from tests.speculation.restless import Restless

from .disturbed import accusations, disturbances
from .gang import KINDS, Gang, gangs_dice
from .leaks import held_by, overfull
from .liar import Liar, liars_dice
from .troubles import Troubles
from .village import Village
from .words import prompt_asked, words_of

LIMIT_S = 3600.0
STUCK_S = 300.0
"""Of peace: by then every reply is over."""
LOOK_S = 0.5
TRIES = 4
"""In peace, where rogues go on: who was sent away with a word asks again."""
PAUSE_S = 20.0
"""Before each: what the troubles left in back-offs and records is over."""
LAST_LOOK_S = 9.0
"""A last round of pings and lookups, when a reply's patience is over."""
KNOWN_S = 5.0
"""By then everybody's offers are known; who asks before may hear that there are none yet."""
END_TOKEN = 0
WINDOWS = ("", "fixed", "awc", "throughput", "throughput:stream", "throughput:hedged", "stream:2:8", "stream:1:16")
"""The production policies."""


@dataclass
class Result:
    """`violations`: what must not be; `given_up`: replies that ended early in plain words, asked again in peace.

    `undisturbed`: nothing but a liar is at work, so nobody may have to recover or give up (but for want of a place).
    """

    seed: int
    undisturbed: bool = False
    violations: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    num_replies: int = 0
    num_tokens: int = 0
    num_recoveries: int = 0
    given_up: int = 0
    simulated_s: float = 0.0
    messages: int = 0
    texts: list[tuple[int, ...]] = field(default_factory=list)
    rogues: tuple[str, ...] = ()
    """The kinds of those that there are (misdeeds.py)."""
    num_rogues: int = 0
    num_peers: int = 0
    """With them, without clients."""


def run_world(seed: int, kinds: Sequence[str] | None = None) -> Result:
    """Same seed, same result. `kinds`: of rogues, which every world has then; None: some have some."""
    result = Result(seed)
    found: list[str] = []
    with _complaints(result.violations), restless(seed), disturbances(found), accusations() as accused:
        try:
            run(_live(result, accused, kinds), LIMIT_S)
        except Unreal as error:
            result.violations.append(f"stuck: {error}")
        except Exception as error:
            result.violations.append(f"crash: {type(error).__name__} {error}")
    if result.undisturbed:
        result.violations += found
    return result


async def _live(result: Result, accused: list[bytes], kinds: Sequence[str] | None) -> None:
    """`accused`: whom somebody counted a strike."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.set_exception_handler(lambda _, context: result.violations.append(f"crash: {context.get('exception')!r}"))
    rng = Random(result.seed)
    village = Village(rng)
    dice = liars_dice(result.seed)
    liar = None if dice is None else Liar(village, dice)
    gang = _gang(village, result.seed, kinds, alone=liar is not None and liar.alone)
    result.undisturbed, result.rogues = liar is not None and liar.alone and gang is None, gang.kinds if gang else ()
    troubles = Troubles(village, Random(rng.random()), calm=result.undisturbed)
    await village.build(num_clients=rng.randint(1, 3))
    if liar is not None:
        liar.begin()
    if gang is not None:
        await gang.begin()
        result.num_rogues, result.num_peers = gang.size, gang.size + len(village.places)
    if result.undisturbed or gang is not None:
        await asyncio.sleep(KNOWN_S)
    asks = [_Ask(village, client, Random(rng.random()), result) for client in village.clients]
    tasks = [asyncio.create_task(ask.all()) for ask in asks]
    watch = asyncio.create_task(_watch(village, result))
    await troubles.rage(lambda: all(task.done() for task in tasks))
    await troubles.calm()
    await _end(asks, tasks, result)
    liars = [one for one in (liar, gang) if one is not None]
    for one in liars:
        await one.leave()
    await _settle(village, result)
    watch.cancel()
    await village.close()
    names = {name for one in liars for name in one.names}
    result.violations += ["accused an honest peer" for peer in accused if peer not in names]
    result.violations += ["banned an honest peer" for peer in village.network.banned if peer not in names]
    result.faults = sum((one.counts for one in liars), troubles.counts + village.network.counts)
    result.simulated_s = loop.now
    result.messages = sum(traffic.num_messages for traffic in village.network.traffic.values())
    left = [task.get_name() for task in asyncio.all_tasks() if task not in (asyncio.current_task(), watch)]
    result.violations += [f"leak: task {name}" for name in left]


def _gang(village: Village, seed: int, kinds: Sequence[str] | None, *, alone: bool) -> Gang | None:
    """Not `alone`: where a liar may not disturb anybody nobody else does."""
    dice = gangs_dice(seed)
    if kinds is not None:
        return Gang(village, dice or Random(f"rogues {seed}"), kinds)
    return None if dice is None or alone else Gang(village, dice, KINDS)


def _request(rng: Random, village: Village) -> GenerateRequest:
    return GenerateRequest(
        prompt_tokens=tuple(rng.randrange(1, village.model.vocab_size) for _ in range(rng.choice((1, 3, 12, 40, 300)))),
        max_tokens=rng.choice((1, 20, 60, 100)),
        temperature=rng.choice((0.0, 0.8)),
        seed=rng.getrandbits(32),
        draft_max=rng.choice((0, 1, 2, 4, 8, 16)),
        window=rng.choice(WINDOWS),
        keep=rng.random() < 0.4,
    )


def _begun_alike(result: Result, request: GenerateRequest) -> GenerateRequest:
    """In a third of the worlds most prompts begin with the same system prompt."""
    dice = Random(f"alike {result.seed}")
    if dice.random() > 0.33 or request.seed % 4 == 0:
        return request
    system = [dice.randrange(1, 17) for _ in range(dice.choice((20, 90, 150)))]
    return dataclasses.replace(request, prompt_tokens=(*system, *(request.prompt_tokens or ())))


def _in_words(dice: Random, request: GenerateRequest) -> GenerateRequest:
    """Three of ten ask so: which ids that makes says a drafter."""
    text, way = words_of(request.prompt_tokens or ()), dice.random()
    if way < 0.15:
        return dataclasses.replace(request, prompt_tokens=None, prompt=text)
    said = [{"role": "user", "content": text}]
    return dataclasses.replace(request, prompt_tokens=None, messages=said) if way < 0.3 else request


def _next_turn(rng: Random, request: GenerateRequest, reply: list[int]) -> GenerateRequest:
    """The conversation goes on, by other dice."""
    said = [rng.randrange(1, 17) for _ in range(rng.randint(1, 5))]
    after = dataclasses.replace(request, seed=request.seed + 1, keep=rng.random() < 0.5)
    if request.messages:
        turn = [{"role": "assistant", "content": words_of(reply)}, {"role": "user", "content": words_of(said)}]
        return dataclasses.replace(after, messages=[*request.messages, *turn])
    if request.prompt is not None:
        return dataclasses.replace(after, prompt=request.prompt + words_of([*reply, *said]))
    return dataclasses.replace(after, prompt_tokens=(*(request.prompt_tokens or ()), *reply, *said))


class _Ask:
    """One client's conversation, compared with the sequential text as its pieces come."""

    def __init__(self, village: Village, client: Client, rng: Random, result: Result) -> None:
        self.village, self.client, self.rng, self.result = village, client, rng, result
        self.over = False
        self.told_s = 0.0
        """When it was asked, or the last token came."""
        number = village.clients.index(client)
        self._turn(_in_words(Random(f"words {result.seed} {number}"), _begun_alike(result, _request(rng, village))))

    def _turn(self, request: GenerateRequest) -> None:
        self.request = request
        sampling = Sampling(request.temperature, seed=request.seed)
        self.prompt = prompt_asked(request)
        expected = fake_text(self.village.model, self.prompt, request.max_tokens, sampling)
        self.expected = expected[: expected.index(END_TOKEN)] if END_TOKEN in expected else expected
        self.result.num_replies += 1

    async def all(self) -> None:
        """Until the last turn is Finished, or until somebody gives up in words; `over` tells which."""
        while not self.over and await self.once():
            pass

    async def once(self) -> bool:
        """A turn: is it Finished?"""
        tokens: list[int] = []
        self.told_s = self.village.loop.now
        try:
            async with contextlib.aclosing(self.client.generate(self.request)) as events:
                async for event in events:
                    self._heard(isinstance(event, Finished) or bool(event.tokens))
                    if isinstance(event, Finished):
                        self._finish(event, tokens)
                        return True
                    tokens += event.tokens
                    if tokens != self.expected[: len(tokens)]:
                        self.result.violations.append(f"wrong text: {tokens}, not {self.expected}")
                        self.over = True
                        return False
        except DsdError as error:
            self.result.given_up += 1
            self._heard(True)
            if self.result.undisturbed and not isinstance(error, Overloaded):
                self.result.violations.append(f"disturbed: {type(error).__name__} {error}")
        return False

    def _heard(self, news: bool) -> None:
        """Something came of it: in time?"""
        still_s = self.village.loop.now - self.told_s
        num_positions = len(self.prompt) + self.request.max_tokens
        if still_s > DEFAULT_PATIENCE_S + MARGIN_S + LAST_LOOK_S + POSITION_PATIENCE_S * num_positions:
            self.result.violations.append(f"late: nothing came for {still_s:.0f} s")
        if news:
            self.told_s = self.village.loop.now

    def _finish(self, event: Finished, tokens: list[int]) -> None:
        self.over = not self.request.keep
        self.result.num_tokens += len(tokens)
        self.result.num_recoveries += event.stats.recoveries
        self.result.texts.append(tuple(tokens))
        if tokens != self.expected:
            self.result.violations.append(f"lost: {len(tokens)} of {len(self.expected)} tokens ({event.reason})")
        if self.request.keep:
            self._turn(_next_turn(self.rng, self.request, tokens))


async def _end(asks: list[_Ask], tasks: list[asyncio.Task[None]], result: Result) -> None:
    """In peace every reply ends, and whoever was sent away with a word gets the whole text now."""
    tries = TRIES if result.rogues else 1
    try:
        async with asyncio.timeout(STUCK_S * tries):
            await asyncio.gather(*tasks)
            for _ in range(tries):
                if not all(ask.over for ask in asks):
                    await asyncio.sleep(PAUSE_S)
                    await asyncio.gather(*(ask.all() for ask in asks if not ask.over))
    except TimeoutError:
        result.violations += ["stuck: a reply is not over" for ask in asks if not ask.over]
    else:
        result.violations += ["lost: no reply though all is well again" for ask in asks if not ask.over]


async def _settle(village: Village, result: Result) -> None:
    """When the clients have left, everybody lets go of everything: of replies within a lease, of kept ones in time."""
    await village.dismiss()
    started_s = village.loop.now
    for limit_s, parked in ((village.lease_s + 15.0, False), (PARKED_S + 15.0, True)):
        while held := [leak for one in village.villagers.values() for leak in held_by(one, parked=parked)]:
            if village.loop.now > started_s + limit_s:
                result.violations += held
                return
            await asyncio.sleep(1.0)


async def _watch(village: Village, result: Result) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        for villager in list(village.villagers.values()):
            result.violations += overfull(villager)


@contextlib.contextmanager
def restless(seed: int, share: float = 0.8) -> Iterator[None]:
    """This share of all replies is planned at random: nothing that a policy may say makes a text wrong."""
    rng = Random(f"plans {seed}")

    def machine(config: SessionConfig, prompt: Any, window: WindowController, *, drafter: bool) -> SessionMachine:
        chosen = Restless(rng) if rng.random() < share else window
        return SessionMachine(config, prompt, chosen, drafter=drafter)

    with patch.object(generate, "SessionMachine", machine):
        yield


@contextlib.contextmanager
def _complaints(violations: list[str]) -> Iterator[None]:
    """An error in a log is a bug; nothing else is said."""

    def collect(logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        error = event.get("exc_info")
        violations.append(f"log: {event['event']} {error!r}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[collect], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )  # fmt: skip
    try:
        yield
    finally:
        structlog.configure(**before)
