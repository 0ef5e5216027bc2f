"""How punctual the emulated links and devices are on this machine: python -m tests.bench.accuracy [--latency-ms 10]

Links: a message out and back over `--links` at once, each through a proxy; beside it the same without a proxy, at the
same pace, so that what waking up costs anyway does not count. Devices: engines that compute nothing, slowed down.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dsdnode.bench.emulator import Emulator
from dsdnode.bench.shape import LinkShape
from dsdnode.cost import CostLine
from dsdnode.engine.fake import FakeModel, FakeTextEngine
from dsdnode.engine.port import Chunk
from dsdnode.engine.slow import Pace, SlowEngine, fine_loop
from dsdnode.speculation.sampling import Sampling

MESSAGE_BYTES = 1000


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


async def round_trips(port: int, num: int, pause_s: float) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop, took = asyncio.get_running_loop(), []
    for _ in range(num):
        began_s = loop.time()
        writer.write(bytes(MESSAGE_BYTES))
        await reader.readexactly(MESSAGE_BYTES)
        took.append(loop.time() - began_s)
        await asyncio.sleep(pause_s)
    writer.close()
    return took


async def links(latency_s: float, num_links: int, num: int) -> None:
    with Emulator(seed=0) as emulator:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            ports = [emulator.open() for _ in range(num_links)]
            for i in range(num_links):
                emulator.aim(i, port)
            emulator.shape([LinkShape(latency_s)] * num_links)
            await round_trips(ports[0], num, 0.0)
            direct_s = statistics.median(await round_trips(port, num, latency_s))
            took = await asyncio.gather(*(round_trips(one, num, 0.0) for one in ports))
    errors_ms = sorted(500 * (one - direct_s - 2 * latency_s) for trips in took for one in trips)
    show(f"{num_links} links of {latency_s * 1e3:g} ms, one way", errors_ms)


async def device(pace: Pace, positions: int, num: int, folder: Path) -> None:
    engine = SlowEngine(FakeTextEngine(FakeModel()), pace, folder / "slowdown")
    chunk = Chunk(0, 0, np.ones(positions, np.int32), 1, Sampling())
    loop, errors_ms = asyncio.get_running_loop(), []
    for _ in range(num):
        began_s = loop.time()
        await engine.forward([chunk])
        errors_ms.append((loop.time() - began_s - pace.duration_s([chunk])) * 1e3)
        await engine.release(0)
    show(f"a decode of {pace.duration_s([chunk]) * 1e3:g} ms", sorted(errors_ms))


def show(what: str, errors_ms: Sequence[float]) -> None:
    middle, late = statistics.median(errors_ms), errors_ms[int(0.95 * len(errors_ms))]
    print(f"{what}: late by {middle:.3f} ms (median), {statistics.mean(errors_ms):.3f} (mean), {late:.3f} (p95)")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=10.0)
    parser.add_argument("--links", type=int, default=5)
    parser.add_argument("--num", type=int, default=200)
    args = parser.parse_args()
    await links(args.latency_ms / 1e3, args.links, args.num)
    with TemporaryDirectory() as folder:
        for pace in (Pace(CostLine(0.014, 0.006)), Pace(CostLine(0.0, 0.003), drafts=True)):
            await device(pace, 1, args.num, Path(folder))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fine_loop) as runner:
        runner.run(main())
