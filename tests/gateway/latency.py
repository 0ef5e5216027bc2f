"""What a gateway adds to the first byte of a reply: one client at a time, and 200 at once.

    python -m tests.gateway.latency --requests 500

The swarm behind it answers at once, so all that is measured is the gateway: HTTP, JSON, its doors and its streams.
Beside it stands what it takes to ask that swarm without a gateway, and a bare answer of the server (`/api/version`).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable
from statistics import quantiles
from time import perf_counter, process_time

import httpx
import structlog

from dsdnode.client.client import GenerateRequest
from dsdnode.gateway.doors import Rules
from dsdnode.gateway.server import Gateway
from tests.gateway.conftest import ScriptedSwarm

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hello " * 200}], "stream": True}


async def first_byte_s(http: httpx.AsyncClient) -> float:
    """Of the reply's text, from the request on."""
    begun_s = perf_counter()
    first_s = 0.0
    async with http.stream("POST", CHAT, json=BODY) as answer:
        async for _ in answer.aiter_bytes():
            first_s = first_s or perf_counter() - begun_s
    return first_s


async def bare_s(http: httpx.AsyncClient) -> float:
    begun_s = perf_counter()
    await http.get("/api/version")
    return perf_counter() - begun_s


async def swarm_s(swarm: ScriptedSwarm) -> float:
    begun_s = perf_counter()
    events = swarm.generate(GenerateRequest(prompt="hello"))
    await anext(events)
    await events.aclose()
    return perf_counter() - begun_s


async def told(what: str, num: int, once: Callable[[], Awaitable[float]]) -> None:
    """By the clock, and of the processor, which other programs on the machine do not add to (client and server)."""
    begun_s = process_time()
    times_s = [await once() for _ in range(num)]
    cpu_ms = 1000 * (process_time() - begun_s) / num
    _print(what, times_s, f"   processor {cpu_ms:6.2f} ms")


def _print(what: str, times_s: list[float], more: str = "") -> None:
    cuts = quantiles(times_s, n=100)
    print(f"{what:<34} p50 {1000 * cuts[49]:8.2f} ms   p99 {1000 * cuts[98]:8.2f} ms   of {len(times_s)}{more}")


async def measure(num: int, at_once: int) -> None:
    swarm = ScriptedSwarm()
    gateway = Gateway("127.0.0.1", 0, Rules())
    running = asyncio.create_task(gateway.run(swarm))
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60, limits=limits) as http:
        for _ in range(20):
            await first_byte_s(http)
        await told("the swarm, without a gateway", num, lambda: swarm_s(swarm))
        await told("a bare answer (/api/version)", num, lambda: bare_s(http))
        await told("first byte, one client", num, lambda: first_byte_s(http))
        many = await asyncio.gather(*(first_byte_s(http) for _ in range(at_once)))
        _print(f"first byte, {at_once} at once", list(many))
    gateway.stop()
    gateway.stop()
    await running


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=200)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(measure(arguments.requests, arguments.at_once))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
