"""Alice's clock jumps, in order, and nothing real can be reached from inside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dsdnode.sim.loop import JumpingLoop, Unreal, clock, run


def test_an_hour_takes_no_time_and_timers_of_one_moment_keep_their_order() -> None:
    async def story() -> tuple[float, list[int]]:
        loop = asyncio.get_running_loop()
        rung: list[int] = []
        for number in range(5):
            loop.call_later(3600, rung.append, number)
        await asyncio.sleep(3600)
        return loop.time(), rung

    assert run(story()) == (3600.0, [0, 1, 2, 3, 4])


def test_a_cancelled_timer_does_not_ring_and_does_not_stay() -> None:
    async def story() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        for _ in range(10_000):
            loop.call_later(1e6, pytest.fail, "cancelled").cancel()
        await asyncio.sleep(1)
        return len(loop._timers)

    assert run(story()) < 2_000


def test_waiting_for_ever_is_told() -> None:
    async def story() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Unreal, match="for ever"):
        run(story())


def test_a_simulation_that_does_not_end_is_told() -> None:
    async def story() -> None:
        for _ in range(10**6):
            await asyncio.sleep(1)

    with pytest.raises(Unreal, match="100 simulated"):
        run(story(), limit_s=100)


@pytest.mark.parametrize(
    "reach",
    [
        lambda: asyncio.to_thread(print),
        lambda: asyncio.open_connection("127.0.0.1", 9),
        lambda: asyncio.start_server(lambda *_: None, "127.0.0.1", 0),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 80),
    ],
)
def test_the_world_outside_cannot_be_reached(reach: Callable[[], Awaitable[object]]) -> None:
    async def story() -> None:
        await reach()

    with pytest.raises(Unreal):
        run(story())


def test_each_has_a_clock_of_its_own() -> None:
    """Bob's is an hour ahead: his timers wait as long as Alice's, and what he starts is by his clock."""

    async def bob(loop: JumpingLoop) -> tuple[float, float]:
        async def child() -> float:
            async with asyncio.timeout(5):
                await asyncio.sleep(4)
            return loop.time()

        return await asyncio.create_task(child()), loop.now

    async def story() -> tuple[float, float, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        with clock(3600):
            task = asyncio.create_task(bob(loop))
        return *(await task), loop.time()

    assert run(story()) == (3604.0, 4.0, 4.0)
