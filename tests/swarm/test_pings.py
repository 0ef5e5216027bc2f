"""Who hosts a model and lives: alice waits for nobody who is gone, and for everybody who is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import PeerUnavailable
from dsdnode.node.admission import Admission
from dsdnode.node.drafter.routes import FOUND_S, Hosts
from dsdnode.swarm.catalogue import Model, models_of
from dsdnode.swarm.pings import AT_ONCE, GRACE_S, PING_TIMEOUT_S, SURVEY_S, Pings
from tests.node import jumping
from tests.swarm.town import Town

RANGES = {"bob": (0, 4), "carol": (4, 8), "dave": (4, 8)}


class Story:
    """Alice, and three hosts of a model of two stages."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.alice = town.begin("alice", offers=False)
        self.pings = Pings(self.alice.rpc)
        self.known = Hosts(self.alice.rpc, self.alice.discovery, self.pings, Admission())
        self.model: Model

    async def begin(self) -> None:
        for name, (start, end) in RANGES.items():
            other = self.town.begin(name, "alice", offers=False)
            offer = other.offer(start, end)
            other.discovery.provide(lambda offer=offer: [offer])  # type: ignore[misc]
        await asyncio.sleep(10)
        [self.model] = models_of(await self.alice.discovery.find_providers(MODELS_KEY))
        await self.known.look(self.model.model_id)

    def go(self, *names: str) -> None:
        self.town.silent.update(self.town.members[name].id for name in names)

    async def hosts(self, *avoid: str) -> tuple[set[str], float]:
        """Who is there, and how long alice waited to know."""
        loop = asyncio.get_running_loop()
        names = {member.id: name for name, member in self.town.members.items()}
        began_s = loop.time()
        unwanted = [self.town.members[name].id for name in avoid]
        records, rtt_s = await self.known.alive(self.model, False, unwanted)
        assert [record.peer_id for record in records] == list(rtt_s)
        return {names[peer] for peer in rtt_s}, loop.time() - began_s


def tell(story: Callable[[Story], Awaitable[None]]) -> None:
    async def told() -> None:
        async with Town() as town:
            one = Story(town)
            await one.begin()
            await story(one)
            await one.pings.close()

    jumping.run(told())


def test_when_all_are_there_nobody_waits() -> None:
    async def story(alice: Story) -> None:
        there, waited_s = await alice.hosts()
        assert there == set(RANGES) and waited_s < 0.1

    tell(story)


def test_who_is_gone_is_waited_for_once_and_not_for_long() -> None:
    async def story(alice: Story) -> None:
        alice.go("dave")
        there, waited_s = await alice.hosts()
        assert there == {"bob", "carol"} and GRACE_S <= waited_s < GRACE_S + 0.1
        await asyncio.sleep(PING_TIMEOUT_S)
        there, waited_s = await alice.hosts()
        assert there == {"bob", "carol"} and waited_s < 0.1

    tell(story)


def test_who_is_needed_is_waited_for() -> None:
    async def story(alice: Story) -> None:
        alice.go("carol", "dave")
        for _ in range(2):
            there, waited_s = await alice.hosts()
            assert there == {"bob"} and PING_TIMEOUT_S <= waited_s < PING_TIMEOUT_S + 0.1
        alice.town.silent.clear()
        there, _ = await alice.hosts()
        assert "bob" in there and there & {"carol", "dave"}, "they were silent, and are heard again"
        await asyncio.sleep(1)
        assert (await alice.hosts())[0] == set(RANGES)

    tell(story)


def test_who_was_silent_and_answers_again_is_as_good_as_ever() -> None:
    """Dave is back, and carol is slower than he: he is waited for as if he had never been away."""

    async def story(alice: Story) -> None:
        dave = alice.town.members["dave"].id
        alice.go("dave")
        await alice.hosts()
        await asyncio.sleep(PING_TIMEOUT_S)
        assert alice.pings.is_silent(dave)
        alice.town.silent.clear()
        assert await alice.pings.rtt_s(dave) is not None
        assert not alice.pings.is_silent(dave)
        there, _ = await alice.hosts()
        assert there == set(RANGES)

    tell(story)


def test_others_than_those_to_avoid_must_be_enough() -> None:
    """Carol is to be avoided, dave gone: perhaps he is only late."""

    async def story(alice: Story) -> None:
        alice.go("dave")
        there, waited_s = await alice.hosts("carol")
        assert there == {"bob", "carol"} and waited_s >= PING_TIMEOUT_S

    tell(story)


def test_a_lookup_is_not_made_again_at_once() -> None:
    async def story(alice: Story) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await alice.known.look(alice.model.model_id)
        assert loop.time() == began_s
        await asyncio.sleep(FOUND_S + 1)
        began_s = loop.time()
        await alice.known.look(alice.model.model_id)
        assert loop.time() > began_s

    tell(story)


class Wire:
    """Of `there` each answers in a moment; the others never do."""

    def __init__(self, there: set[bytes]) -> None:
        self.there = there
        self.num_asked = 0
        self.num_at_once = self.most_at_once = 0

    async def ping(self, peer: bytes, *, timeout_s: float) -> float:
        self.num_asked += 1
        self.num_at_once += 1
        self.most_at_once = max(self.num_at_once, self.most_at_once)
        await asyncio.sleep(0.05 if peer in self.there else timeout_s)
        self.num_at_once -= 1
        if peer not in self.there:
            raise PeerUnavailable("nobody answers there")
        return 0.05


def test_mallory_s_many_records_are_asked_some_at_once_and_not_for_ever() -> None:
    """Bob, whom alice knows, has the last record of all. Who was silent just now is not asked, if that is enough."""
    crowd = [b"m%d" % number for number in range(1000)]
    wire = Wire({b"bob", b"carol"})

    async def story() -> None:
        pings, loop = Pings(wire), asyncio.get_running_loop()  # type: ignore[arg-type]
        assert await pings.survey([b"bob", b"carol", b"dave"]) == {b"bob": 0.05, b"carol": 0.05}
        begun_s = loop.time()
        assert await pings.survey([*crowd, b"bob"]) == {b"bob": 0.05}
        assert loop.time() < begun_s + SURVEY_S + PING_TIMEOUT_S + 0.1
        assert wire.most_at_once == AT_ONCE and wire.num_asked < 500
        wire.num_asked, begun_s = 0, loop.time()
        assert await pings.survey([*crowd[:200], b"bob"], spare_s=60.0) == {b"bob": 0.05}
        assert loop.time() < begun_s + 0.1 and wire.num_asked == 1
        wire.there.clear()
        assert await pings.survey([b"bob"]) == {}
        wire.there.add(b"bob")
        assert await pings.survey([b"bob"], spare_s=60.0) == {b"bob": 0.05}, "he missed one, and is known"

    jumping.run(story())


def test_who_lives_is_found_behind_two_hundred_who_do_not() -> None:
    living = [b"l%d" % number for number in range(20)]
    wire = Wire(set(living))

    async def story() -> None:
        pings = Pings(wire)  # type: ignore[arg-type]
        assert list(await pings.survey([*(b"m%d" % number for number in range(200)), *living])) == living

    jumping.run(story())
