"""The links between the daemons, in a process of their own: nothing that the bench itself does delays a byte.

Run as a module it reads one JSON command a line and answers each with a line; when its input ends, so does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from random import Random
from types import TracebackType
from typing import Any

from dsdnode.bench.proxy import Counts, Proxy
from dsdnode.bench.shape import LinkShape
from dsdnode.engine.slow import Punctuality, fine_loop
from dsdnode.errors import DsdError

END_WITHIN_S = 5.0
NICENESS = -10
"""Before the daemons: what it is late by, they are all late by."""


class Emulator:
    """The bench's side. A context; one proxy a daemon, numbered in the order of `open`. Answers come in a millisecond,
    so nothing here is awaited."""

    def __init__(self, seed: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dsdnode.bench.emulator", str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def open(self) -> int:
        """A new proxy's port on loopback."""
        return int(self._ask("open"))

    def aim(self, proxy: int, port: int) -> None:
        self._ask("aim", proxy, port)

    def shape(self, shapes: Sequence[LinkShape]) -> None:
        """From now on: one a proxy."""
        self._ask("shape", [asdict(shape) for shape in shapes])

    def close(self) -> None:
        """All proxies, and what is on its way in them."""
        self._ask("close")

    def counts(self) -> Counts:
        """Of all proxies together since they were opened."""
        return Counts(**self._ask("counts"))

    def _ask(self, command: str, *arguments: Any) -> Any:
        """Raises DsdError when the process is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise DsdError("the link emulator has ended")
        return json.loads(line)


class Server:
    """The other side of the pipe."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._punctuality = Punctuality()
        self._proxies: list[Proxy] = []

    def answer(self, command: str, *arguments: Any) -> Any:
        match command, arguments:
            case "open", ():
                self._proxies.append(Proxy(self._rng, self._punctuality))
                return self._proxies[-1].port
            case "aim", (proxy, port):
                self._proxies[proxy].aim(port)
            case "shape", (shapes,):
                for proxy, shape in zip(self._proxies, shapes, strict=True):
                    proxy.shape = LinkShape(**shape)
            case "close", ():
                for proxy in self._proxies:
                    proxy.close()
                self._proxies.clear()
            case "counts", ():
                counts = [proxy.counts for proxy in self._proxies]
                return asdict(Counts(sum(c.num_bytes for c in counts), sum(c.num_lost for c in counts)))
            case _:
                raise ValueError(command)
        return None


async def serve(seed: int) -> None:
    server = Server(seed)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command, *arguments = json.loads(line)
        print(json.dumps(server.answer(command, *arguments)), flush=True)
    server.answer("close")


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # only the system's owner may; for others it is as punctual as the rest
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    with asyncio.Runner(loop_factory=fine_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
