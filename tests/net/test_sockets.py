from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import zmq

from dsdnode.net.sockets import Frames, Pump, events, open_context

Pair = tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]


@pytest.fixture
def pair() -> Iterator[Pair]:
    context = open_context()
    here, there = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    here.bind("inproc://pair")
    there.connect("inproc://pair")
    yield here, there
    context.destroy(0)


def test_of_a_message_with_too_many_frames_only_some_are_held(pair: Pair) -> None:
    here, there = pair
    frames = Frames(here, most=3)
    for message in ([b"1", b"2", b"3"], [b"x"] * 100, [b"next"]):
        there.send_multipart(message)
    received = []
    with pytest.raises(zmq.Again):
        while True:
            received.append(frames.receive())
    whole = [[frame.bytes for frame in message] for message in received if message is not None]
    assert whole == [[b"1", b"2", b"3"], [b"next"]]
    assert received.count(None) == 100 - 3 + 1  # each of them a turn of its own


async def test_a_notice_swallowed_by_sending_is_made_up_for(pair: Pair) -> None:
    here, there = pair
    heard: list[bytes] = []
    pump = Pump(here, lambda: heard.append(here.recv(zmq.NOBLOCK)))
    for _ in range(5):  # whatever connecting left to be heard of
        await asyncio.sleep(0)
    there.send(b"hello")
    assert events(here) & zmq.POLLIN  # the descriptor is silent from now on, as after a send
    pump.sent()
    await asyncio.sleep(0)
    assert heard == [b"hello"]
    pump.close()
    pump.close()


async def test_a_bug_in_a_handler_does_not_deafen_the_socket(pair: Pair) -> None:
    here, there = pair
    loop, heard, bugs = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda loop, context: bugs.append(context["exception"]))
    done = asyncio.Event()

    def take() -> None:
        heard.append(here.recv(zmq.NOBLOCK))
        if heard[-1] == b"bug":
            raise ZeroDivisionError
        done.set()

    pump = Pump(here, take)
    there.send(b"bug")
    there.send(b"fine")
    async with asyncio.timeout(5):
        await done.wait()
    assert heard == [b"bug", b"fine"] and len(bugs) == 1
    pump.close()


async def test_a_socket_that_nobody_has_closed_when_all_ends_is_not_read_again_and_again() -> None:
    context = open_context()
    here, loop, bugs = context.socket(zmq.PAIR), asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, context: bugs.append(context["exception"]))
    num_taken = 0

    def take() -> None:
        nonlocal num_taken
        num_taken += 1
        here.recv(zmq.NOBLOCK)

    pump = Pump(here, take)
    ending = threading.Thread(target=context.term)
    ending.start()
    try:
        async with asyncio.timeout(5):
            while not pump._closed and not bugs:  # noqa: ASYNC110 (nobody tells of it)
                await asyncio.sleep(0.001)
        before = num_taken
        pump.poke()
        for _ in range(5):
            await asyncio.sleep(0)
        assert num_taken == before and not bugs
    finally:
        pump.close()
        ending.join()
