"""Names and their addresses: a name server that is silent holds up nobody."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from dsdnode.net.resolver import MAX_ASKED, MAX_TOLD, Resolver
from tests.node.mutation import ROOT


async def test_a_name_of_this_machine_and_one_that_is_nobody_s() -> None:
    resolver = Resolver()
    assert "127.0.0.1" in await resolver.hosts("localhost")
    for name in ("no-such-host.invalid", "a..b"):
        with pytest.raises((OSError, UnicodeError)):
            await resolver.hosts(name)


async def test_names_of_a_silent_server_are_given_up_and_leave_a_bounded_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = threading.Event()
    asked: list[str] = []

    def silent(name: str, *_: object, **__: object) -> list[Any]:
        asked.append(name)
        told.wait()
        return [(socket.AF_INET, 1, 6, "", (address, 0)) for address in ("192.0.2.7", "192.0.2.8", "192.0.2.7")]

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    resolver = Resolver()
    given_up = [asyncio.ensure_future(resolver.hosts(f"{number}.example")) for number in range(MAX_ASKED)]
    last = asyncio.ensure_future(resolver.hosts("last.example"))
    await asyncio.sleep(0)
    for one in given_up:
        one.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    assert not last.done() and "last.example" not in asked
    told.set()
    async with asyncio.timeout(10):
        assert await last == ["192.0.2.7", "192.0.2.8"]


async def test_who_asks_again_while_a_server_is_silent_takes_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    told, asked = threading.Event(), list[str]()

    def silent(name: str, *_: object, **__: object) -> list[Any]:
        asked.append(name)
        told.wait()
        return [(socket.AF_INET, 1, 6, "", ("192.0.2.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    resolver = Resolver()
    for _ in range(2 * MAX_ASKED):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver.hosts("alice.example"), 0.001)
    again = asyncio.ensure_future(resolver.hosts("alice.example"))
    await asyncio.sleep(0)
    told.set()
    assert await asyncio.wait_for(again, 10) == ["192.0.2.7"] and asked == ["alice.example"]
    assert not resolver._asked and resolver._slots._value == MAX_ASKED


@pytest.mark.parametrize("is_told_too", [False, True])
async def test_names_of_a_silent_server_that_mallory_tells_do_not_hold_up_what_alice_s_user_names(
    monkeypatch: pytest.MonkeyPatch, is_told_too: bool
) -> None:
    told, asked = threading.Event(), list[str]()

    def silent(name: str, *_: object, **__: object) -> list[Any]:
        asked.append(name)
        if name.endswith("mallory.example"):
            told.wait()
        return [(socket.AF_INET, 1, 6, "", ("192.0.2.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    resolver = Resolver()
    names = [f"{number}.mallory.example" for number in range(2 * MAX_ASKED)]
    by_mallory = [asyncio.ensure_future(resolver.hosts(name, by_user=False)) for name in names]
    if is_told_too:  # bob's name is among those that wait
        by_mallory.append(asyncio.ensure_future(resolver.hosts("bob.example", by_user=False)))
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert await resolver.hosts("bob.example") == ["192.0.2.7"]
        assert asked == [*names[:MAX_TOLD], "bob.example"]
    finally:
        told.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*by_mallory)
    assert set(names) < set(asked), "they had their turns"
    assert not resolver._asked and (resolver._slots._value, resolver._told._value) == (MAX_ASKED, MAX_TOLD)


async def test_who_gives_up_waiting_for_a_slot_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()

    def silent(name: str, *_: object, **__: object) -> list[Any]:
        told.wait()
        return [(socket.AF_INET, 1, 6, "", ("192.0.2.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    resolver = Resolver()
    by_user = [asyncio.ensure_future(resolver.hosts(f"{number}.example")) for number in range(MAX_ASKED)]
    waiting = [asyncio.ensure_future(resolver.hosts(f"{number}.example", by_user=False)) for number in range(9, 13)]
    await asyncio.sleep(0)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert resolver._told._value == MAX_TOLD
    told.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*by_user)
    assert resolver._slots._value == MAX_ASKED


def test_a_process_ends_though_a_name_is_asked_for() -> None:
    script = """
import asyncio, socket, threading
from dsdnode.net.resolver import Resolver
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
async def main():
    try:
        async with asyncio.timeout(0.1):
            await Resolver().hosts("alice.example")
    except TimeoutError:
        print("given up")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "given up\n"), done.stderr
