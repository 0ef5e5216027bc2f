"""The swarm that is measured: one drafter, some shards, each behind a proxy of the link emulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsdnode.bench.config import BenchConfig, PerShard
from dsdnode.bench.daemons import Daemon, even_ranges, take_down
from dsdnode.bench.emulator import Emulator
from dsdnode.engine.gguf import read_manifest
from dsdnode.models import demo_target
from dsdnode.wire.joins import format_join, parse_join
from dsdnode.wire.messages import Contact

MAX_REPLY_POSITIONS = 2048
"""Cache that each reply may need, for the daemons' --ctx-size."""
LEAST_CONTEXT = 8192


class Swarm:
    """Everybody reaches a daemon through its proxy, but for the client: it sits at the drafter, at `join`."""

    def __init__(self, config: BenchConfig, num_shards: int, emulator: Emulator, folder: Path) -> None:
        self.num_shards = num_shards
        self.shards: list[Daemon] = []
        self._config = config
        self._emulator = emulator
        self._folder = folder
        self._running: list[Daemon] = []

    @property
    def daemons(self) -> list[Daemon]:
        return list(self._running)

    def start(self) -> None:
        """All ready, links without delay yet. Raises DsdError with the words of the one that is not."""
        config = self._config
        model = config.model or demo_target()
        ranges = even_ranges(read_manifest(model).num_layers, self.num_shards)
        ports = [self._emulator.open() for _ in range(self.num_shards + 1)]
        draft = ("--model-draft", str(config.draft_model)) if config.draft_model else ()
        pace = () if config.draft_ms is None else ("--emulate-ms", "0", str(config.draft_ms))
        drafter = self._begin("drafter", ports[-1], "--role", "drafter", *draft, *pace)
        direct_port = drafter.port()
        self._emulator.aim(self.num_shards, direct_port)
        join = drafter.ready().join
        paces = config.emulate_ms(self.num_shards)
        for i, layers in enumerate(ranges):
            words = ["--role", "shard", "--model", str(model), "--layers", layers, "--join", join]
            words += ["--emulate-ms", *map(str, paces[i])] if paces else []
            self.shards.append(self._begin(f"shard-{i}", ports[i], *words))
        for i, shard in enumerate(self.shards):
            self._emulator.aim(i, shard.port())
        for shard in self.shards:
            shard.ready()
        self.join = format_join(Contact(parse_join(join).public_key, (f"tcp://127.0.0.1:{direct_port}",)))

    def _begin(self, name: str, port: int, *words: str) -> Daemon:
        config = self._config
        context = max(LEAST_CONTEXT, config.max_sessions * MAX_REPLY_POSITIONS)
        common = ("--advertise", f"tcp://127.0.0.1:{port}", "--ctx-size", str(context))
        limit = ("--max-sessions", str(max(8, config.max_sessions)))
        daemon = Daemon(self._folder / f"{self.num_shards}-{name}", *words, *common, *limit, threads=config.threads)
        self._running.append(daemon)
        return daemon

    def end(self) -> None:
        take_down(self._running)
        self._emulator.close()

    def link(self, latency_ms: PerShard) -> None:
        """The links are as they should be from here on."""
        self._emulator.shape(self._config.links(latency_ms).shapes(self.num_shards))

    def slow_down(self, shard: int, factor: float) -> None:
        path = self.shards[shard].data_dir / "slowdown"
        temporary = path.with_suffix(".new")
        temporary.write_text(str(factor))
        temporary.replace(path)

    def cpu_s(self) -> tuple[float, float]:
        """That all have spent so far: workers, daemons."""
        spent = [daemon.cpu_s() for daemon in self._running]
        return sum(workers for workers, _ in spent), sum(own for _, own in spent)

    def num_link_bytes(self) -> int:
        """That went over all emulated links so far, as TCP carried them."""
        return self._emulator.counts().num_bytes


@contextmanager
def swarm(config: BenchConfig, num_shards: int, emulator: Emulator, folder: Path) -> Iterator[Swarm]:
    """However it is left, no daemon survives."""
    made = Swarm(config, num_shards, emulator, folder)
    try:
        made.start()
        yield made
    finally:
        made.end()
