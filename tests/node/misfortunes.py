"""What may befall a swarm of real daemons: deaths, stops, links that are cut or silent, full disks; all by one seed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from dsdnode.bench.proxy import Proxy
from dsdnode.bench.shape import LinkShape
from dsdnode.engine.slow import Punctuality
from tests.node.processes import Daemon, Swarm, swarm

DISK_BYTES = 4 << 20
DISK_SHARE = 0.5
"""Of what befalls the one that has the small disk."""
STOPS_S = (0.5, 2.0, 5.0, 9.0)
CUT_AGAIN_S = 0.02
RESTART_WITHIN_S = 90.0


@dataclass(slots=True)
class Member:
    """A daemon that others reach through `proxy`, and what starts it again."""

    name: str
    words: tuple[str, ...]
    listen: str
    proxy: Proxy
    busy: bool = False
    """Something befalls it now."""


class House:
    """A bootstrap, drafters, and replicas of each layer range; all ready."""

    def __init__(self, made: Swarm, rng: Random) -> None:
        self.made = made
        self.members: dict[str, Member] = {}
        self.join = ""
        self.num_bugs = 0
        """Lines of logs that tell of a bug, in logs that are gone."""
        self._rng = rng

    async def begin(self, ranges: Sequence[str], num_drafters: int, num_replicas: int) -> None:
        self.join = self.made.start("boot", "--role", "bootstrap").join
        for i in range(num_drafters):
            self._start(f"drafter{i}", "--role", "drafter")
        for layers in ranges:
            for i in range(num_replicas):
                self._start(f"shard{layers.replace(':', '-')}{'abc'[i]}", "--role", "shard", "--layers", layers)
        await asyncio.to_thread(lambda: [daemon.ready for daemon in self.made.daemons.values()])

    def _start(self, name: str, *words: str) -> None:
        proxy, port = Proxy(self._rng, Punctuality()), _free_port()
        proxy.aim(port)
        advertised = ("--join", self.join, "--threads", "1", "--advertise", f"tcp://127.0.0.1:{proxy.port}")
        member = Member(name, (*words, *advertised), f"tcp://127.0.0.1:{port}", proxy)
        self.members[name] = member
        self.made.start(name, *member.words, listen=member.listen)

    async def again(self, member: Member) -> bool:
        """Is it back? It may say why not, and end."""
        self.num_bugs += self.bugs_of(member.name)
        daemon = self.made.daemons[member.name]
        for pipe in (daemon.process.stdin, daemon.process.stdout):
            if pipe is not None:
                pipe.close()
        begun = self.made.start(member.name, *member.words, listen=member.listen)
        try:
            async with asyncio.timeout(RESTART_WITHIN_S):
                await asyncio.to_thread(lambda: begun.ready)
        except (AssertionError, TimeoutError):
            return False
        return True

    @property
    def ports(self) -> dict[int, str]:
        """Where each member is reached, through its proxy or not."""
        mine = {name: int(daemon.ready["address"].rpartition(":")[2]) for name, daemon in self.made.daemons.items()}
        return {port: name for name, port in mine.items()}

    def daemon(self, name: str) -> Daemon:
        return self.made.daemons[name]

    def bugs_of(self, name: str) -> int:
        log = self.made.folder / f"{name}.log"
        return sum("Traceback" in line or "bug in" in line for line in log.read_text(errors="replace").splitlines())

    def close(self) -> None:
        for member in self.members.values():
            member.proxy.close()


@asynccontextmanager
async def house(folder: Path, rng: Random) -> AsyncIterator[House]:
    """However it is left, nobody survives, who was stopped neither."""
    with swarm(folder) as made:
        built = House(made, rng)
        try:
            yield built
        finally:
            built.close()
            for daemon in made.daemons.values():
                for process in _family(daemon):
                    with contextlib.suppress(psutil.Error):
                        process.resume()


def _free_port() -> int:
    """Nobody's now; it is the same one again after a restart, as a user's is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _family(daemon: Daemon) -> list[psutil.Process]:
    try:
        process = psutil.Process(daemon.process.pid)
        return [process, *process.children()]
    except psutil.Error:
        return []


@contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """`folder` on a file system of its own while this lasts; why not, where the system does not let us."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        yield str(error)
        return
    try:
        yield done.stderr.strip()
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True)


class Nemesis:
    """Draws from `rng` whom what befalls. `with_disk`: the one daemon whose disk may be filled."""

    def __init__(self, made: House, rng: Random, with_disk: str | None) -> None:
        self.house = made
        self.done: Counter[str] = Counter()
        self._rng = rng
        self._with_disk = with_disk
        self._deeds: list[tuple[str, Callable[[Member], Awaitable[None]]]] = [
            ("kill -9 of a daemon", self._kill),
            ("kill -9 of a worker", self._kill_worker),
            ("a daemon is stopped for a while", self._stop),
            ("a worker is stopped for a while", self._stop_worker),
            ("a link is cut for a while", self._cut),
            ("a link is silent for a while", self._silence),
        ]

    async def rage(self, seconds: float, pause_s: float) -> None:
        """Something new every `pause_s` on the average, whatever is not over yet; when this returns all is well."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + seconds
        async with asyncio.TaskGroup() as tasks:
            while loop.time() < end_s:
                await asyncio.sleep(self._rng.uniform(0.2, 2 * pause_s))
                free = [member for member in self.house.members.values() if not member.busy]
                if not free:
                    continue
                member = self._rng.choice(free)
                name, deed = self._rng.choice(self._deeds)
                if member.name == self._with_disk and self._rng.random() < DISK_SHARE:
                    name, deed = "a disk is full for a while", self._fill
                self.done[name] += 1
                member.busy = True
                tasks.create_task(self._befall(member, deed))

    async def _befall(self, member: Member, deed: Callable[[Member], Awaitable[None]]) -> None:
        try:
            await deed(member)
            if self.house.daemon(member.name).process.poll() is not None:
                await self._restart(member)
        finally:
            member.busy = False

    def _while_s(self) -> float:
        return self._rng.choice(STOPS_S)

    async def _kill(self, member: Member) -> None:
        self.house.daemon(member.name).process.kill()
        await asyncio.to_thread(self.house.daemon(member.name).process.wait)
        await asyncio.sleep(self._rng.uniform(0, 3))

    async def _restart(self, member: Member) -> None:
        if not await self.house.again(member):
            self.done["a restart that failed"] += 1

    async def _kill_worker(self, member: Member) -> None:
        for worker in _family(self.house.daemon(member.name))[1:]:
            with contextlib.suppress(psutil.Error):
                worker.kill()

    async def _stop(self, member: Member) -> None:
        await self._stopped(self.house.daemon(member.name).process.pid)

    async def _stop_worker(self, member: Member) -> None:
        for worker in _family(self.house.daemon(member.name))[1:]:
            await self._stopped(worker.pid)

    async def _stopped(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(self._while_s())
            finally:
                os.kill(pid, signal.SIGCONT)

    async def _cut(self, member: Member) -> None:
        """Whoever is connected, or connects meanwhile, loses the link."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._while_s()
        while loop.time() < end_s:
            for link in list(member.proxy.links):
                link.close()
            await asyncio.sleep(CUT_AGAIN_S)

    async def _silence(self, member: Member) -> None:
        """Nothing arrives for a while, and then all of it."""
        seconds = self._while_s()
        member.proxy.shape = LinkShape(latency_s=seconds)
        await asyncio.sleep(seconds)
        member.proxy.shape = LinkShape()

    async def _fill(self, member: Member) -> None:
        """Now and then it has to start on the full disk, and may say no to that; not when there is room again."""
        data_dir = self.house.daemon(member.name).data_dir
        stuff = data_dir / "stuff"
        with contextlib.suppress(OSError), stuff.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        try:
            await asyncio.sleep(self._while_s())
            if self._rng.random() < 0.5:
                await self._kill(member)
                if not await self.house.again(member):
                    self.done["a start refused on a full disk"] += 1
        finally:
            stuff.unlink(missing_ok=True)
