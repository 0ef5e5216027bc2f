"""Fetching a model: what it takes is said first, and asked where somebody can answer; then how far it is."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdnode.cli import connect, control, render
from dsdnode.cli.progress import LINE_EVERY_S
from dsdnode.cli.settings import Settings
from dsdnode.config import NodeConfig
from dsdnode.errors import BadInput, ModelRefused, NotRunning
from dsdnode.weights.store import Store, size

if TYPE_CHECKING:
    from dsdnode.client.client import Client
    from dsdnode.net.rpc import Rpc
    from dsdnode.weights.members import Member
    from dsdnode.weights.pull import Pull, Quote

MAX_RATE_S = 1e9


async def fetched(config: NodeConfig, yes: bool) -> NodeConfig:
    """The same with paths where it named sources, or models of the store; what is not here is fetched.

    Raises BadInput (nobody can be asked, or has said no), ModelRefused, DsdError.
    """
    store = Store(config.data_dir, config.max_disk_bytes)
    model = _here(store, config.model, config.model_source, config.layers)
    if config.model_source and model is None:
        model = await fetch(store, config.model_source, config.layers, yes=yes, bytes_per_s=_rate(config))
    draft = _here(store, config.draft_model, config.draft_model_source, None)
    if config.draft_model_source and draft is None:
        draft = await fetch(store, config.draft_model_source, None, yes=yes, bytes_per_s=_rate(config))
    return replace(config, model=model, draft_model=draft, model_source="", draft_model_source="")


def _rate(config: NodeConfig) -> float:
    return inf if config.max_download_bytes_per_s is None else config.max_download_bytes_per_s


def _here(store: Store, path: Path | None, source: str, layers: tuple[int, int] | None) -> Path | None:
    """Where it is on this machine; a path that leads nowhere stays: whoever opens it says that it is missing."""
    if not source and (path is None or os.path.exists(path)):  # (a name may be too long for Path.exists)
        return path
    known = store.find(source or str(path), layers)
    return path if known is None else store.path_of(known)


async def fetch(
    store: Store,
    source: str,
    layers: tuple[int, int] | None,
    *,
    yes: bool,
    bytes_per_s: float = inf,
    weights_hash: str = "",
) -> Path:
    """Say what it takes, ask, and do it; the path of the model. Raises as `fetched`."""
    from dsdnode.weights.pull import pulling

    progress = progress_to_stderr()
    async with pulling(
        store, source, layers, progress.tell, weights_hash=weights_hash, bytes_per_s=bytes_per_s
    ) as pull:
        agree(pull, yes)
        return await run(pull, progress)


async def run(pull: Pull, progress: FetchProgress, rpc: Rpc | None = None, members: Sequence[Member] = ()) -> Path:
    with progress:
        return await pull.run(progress.tell, progress, rpc, members)


@contextlib.asynccontextmanager
async def swarm(settings: Settings) -> AsyncIterator[Client | None]:
    """Of --join, or of the node that runs here. None: there is none, and none is needed."""
    if not settings["join"]:
        try:
            await control.ask(settings["data_dir"], "connection", control.Connection)
        except NotRunning:
            yield None
            return
    async with connect.client(settings) as client:
        yield client


async def members(client: Client | None, weights_hash: str) -> list[Member]:
    """Of the swarm those that give some of this model; that there are none is no trouble."""
    from dsdnode.weights.members import who_has

    if client is None:
        return []
    try:
        _, hosts = await client.hosts(weights_hash)
        return await who_has(client.rpc, hosts, weights_hash)
    except ModelRefused:
        return []


def agree(pull: Pull, yes: bool) -> None:
    """Raises BadInput where nobody is asked, click.Abort where somebody says no."""
    quote = pull.quote()
    click.echo(in_words(quote), err=True)
    if yes or not quote.fetch_bytes:
        return
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise BadInput(f"{size(quote.fetch_bytes)} would be fetched, and nobody can be asked here: say so with --yes")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the loop's own would wait for the answer
    try:
        if not click.confirm("Fetch it?", default=True, err=True):
            pull.forget()
            raise click.Abort
    finally:
        signal.signal(signal.SIGINT, before)


def in_words(quote: Quote) -> str:
    """What a pull takes: a line each, none wider than a terminal."""
    start, end = quote.layers
    part = "all" if (start, end) == (0, quote.num_layers) else f"{start}:{end}"
    where, _, commit = quote.source.partition("@")
    before = quote.size_bytes - quote.fetch_bytes
    kept = f" ({size(before)} are here already)" if before else ""
    lines = {
        "model": f"{quote.model} ({quote.architecture}), layers {part} of {quote.num_layers}",
        "from": f"{where} @{commit[:12]}" if commit else where,
        "licence": quote.licence or "not said",
        "to fetch": f"{size(quote.fetch_bytes)} of {size(quote.whole_bytes)}{kept}",
        "on disk": f"{size(quote.disk_bytes)}; {size(quote.disk_free_bytes)} are free",
    }
    return "\n".join(render.wrapped(f"{name:<10}{text}", indent=10) for name, text in lines.items())


class FetchProgress:
    """A line for what happens, and one every LINE_EVERY_S with how far it is."""

    def __init__(self) -> None:
        self.by_source: dict[str, int] = {}
        self._num_bytes = self._num_done_bytes = 0
        self._began_s = self._told_s = time.monotonic()

    def __enter__(self) -> FetchProgress:
        return self

    def __exit__(self, *ended: object) -> None:
        pass

    def begin(self, num_bytes: int, num_done_bytes: int) -> None:
        self._num_bytes, self._num_done_bytes = num_bytes, num_done_bytes
        self._began_s = self._told_s = time.monotonic()
        self.by_source = {}

    def step(self, source: str, num_bytes: int) -> None:
        self._num_done_bytes += num_bytes
        self.by_source[source] = self.by_source.get(source, 0) + num_bytes
        if time.monotonic() - self._told_s >= LINE_EVERY_S:
            self._told_s = time.monotonic()
            self.tell(self._how_far())

    def tell(self, words: str) -> None:
        click.echo(render.wrapped(words), err=True)

    @property
    def rate(self) -> float:
        """Bytes a second since it began, of what came from elsewhere."""
        took_s = time.monotonic() - self._began_s
        return sum(self.by_source.values()) / took_s if took_s > 0 else MAX_RATE_S

    def _how_far(self) -> str:
        rate = self.rate
        rest = f", {(self._num_bytes - self._num_done_bytes) / rate:.0f} s to go" if rate else ""
        return f"{size(self._num_done_bytes)} of {size(self._num_bytes)}, {size(int(rate))}/s{rest}"


class FetchBar(FetchProgress):
    """The same as a bar; what happens stands above it."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(bar_width=None), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar: Any = Progress(*columns, console=Console(stderr=True), transient=True, expand=True)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> FetchBar:
        self._bar.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._bar.stop()

    def begin(self, num_bytes: int, num_done_bytes: int) -> None:
        super().begin(num_bytes, num_done_bytes)
        self._bar.update(self._task, total=num_bytes, completed=num_done_bytes)

    def step(self, source: str, num_bytes: int) -> None:
        self.by_source[source] = self.by_source.get(source, 0) + num_bytes
        self._bar.update(self._task, advance=num_bytes)

    def tell(self, words: str) -> None:
        self._bar.console.print(render.clean(words), markup=False, highlight=False)


def progress_to_stderr() -> FetchProgress:
    return FetchBar() if sys.stderr.isatty() else FetchProgress()
