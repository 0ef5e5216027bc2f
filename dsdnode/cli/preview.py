"""What `dsdnode start` would do, in words: for `--dry-run`, and before anything is fetched."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from dsdnode.cli import fetching, render
from dsdnode.config import NO_DRAFT, NodeConfig
from dsdnode.errors import BadInput
from dsdnode.files import shown
from dsdnode.weights.store import size

if TYPE_CHECKING:
    from dsdnode.node.proposal import Proposal
    from dsdnode.node.targets import Target
    from dsdnode.sim.preview import Prediction, Sight
    from dsdnode.weights.pull import Quote


class ToFetch(msgspec.Struct, frozen=True):
    source: str
    model: str
    licence: str
    fetch_bytes: int


class Preview(msgspec.Struct, frozen=True):
    """What `--json` prints. A block of n positions takes this machine fixed_ms + slope_ms n with these layers.

    Tokens a second are of one reply, asked for here: with this node and without, as simulated; and as measured now.
    """

    roles: tuple[str, ...]
    why: str
    model: str | None
    model_id: str
    layers: tuple[int, int] | None
    num_layers: int | None
    file: str | None
    draft: str | None
    to_fetch: tuple[ToFetch, ...]
    memory_bytes: int
    free_memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    fixed_ms: float | None
    slope_ms: float | None
    tokens_per_second: float | None
    tokens_per_second_without: float | None
    tokens_per_second_now: float | None
    acceptance: float | None
    acceptance_assumed: bool
    missing: str


def dry_run(config: NodeConfig, as_json: bool) -> int:
    """Raises what the start itself would raise, of what can be known before."""
    from dsdnode.sim.preview import look, predict

    sight = asyncio.run(look(config))
    preview = _preview(sight, predict(config, sight))
    if as_json:
        render.print_json(preview)
    else:
        click.echo(told(preview))
    return 0


class Person(fetching.FetchProgress):
    """Who started the node, and may be asked: on a terminal, or with --yes beforehand."""

    def __init__(self, yes: bool) -> None:
        super().__init__()
        self.has_agreed = yes

    async def agree(self, proposal: Proposal, quotes: Sequence[Quote]) -> None:
        """Raises BadInput where nobody can be asked, click.Abort where somebody says no."""
        if quotes or sys.stderr.isatty():
            self._say(proposal, quotes)
        num_bytes = sum(quote.fetch_bytes for quote in quotes)
        if not num_bytes or self.has_agreed:
            return
        if not sys.stdin.isatty() or not sys.stderr.isatty():
            raise BadInput(f"{size(num_bytes)} would be fetched, and nobody can be asked here: say so with --yes")
        if not await _confirmed(f"Fetch {size(num_bytes)}, and take this part?"):
            raise click.Abort

    def _say(self, proposal: Proposal, quotes: Sequence[Quote]) -> None:
        kind = proposal.kind
        named = (kind.model_name, kind.num_layers) if kind else (None, None)
        rows = [("to be", _part(proposal.roles, proposal.layers, *named)), ("because", proposal.why)]
        click.echo(render.named([one for one in rows if one[1]]), err=True)
        for quote in quotes:
            click.echo(fetching.in_words(quote), err=True)


async def _confirmed(question: str) -> bool:
    """Raises click.Abort where the terminal is gone."""
    while True:
        click.echo(f"{question} [Y/n]: ", err=True, nl=False)
        said = await _line()
        if not said:
            raise click.Abort
        if (answer := _ANSWERS.get(said.strip().lower())) is not None:
            return answer


async def _line() -> str:
    """From the terminal; no thread waits there, so that Ctrl-C ends it."""
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline()


_ANSWERS = {"": True, "y": True, "yes": True, "n": False, "no": False}


def _preview(sight: Sight, prediction: Prediction | None) -> Preview:
    proposal, machine = sight.proposal, sight.machine
    shard = next((one for one in proposal.records if one.role == "shard"), None)
    return Preview(
        roles=proposal.roles,
        why=proposal.why,
        model=proposal.kind.model_name if proposal.kind else None,
        model_id=proposal.kind.model_id if proposal.kind else "",
        layers=proposal.layers,
        num_layers=proposal.kind.num_layers if proposal.kind else None,
        file=_file(proposal.target),
        draft=NO_DRAFT if proposal.draft is None and "drafter" in proposal.roles else _file(proposal.draft),
        to_fetch=tuple(ToFetch(one.source, one.model, one.licence, one.fetch_bytes) for one in sight.quotes),
        memory_bytes=proposal.memory_bytes,
        free_memory_bytes=machine.free_memory_bytes,
        disk_bytes=proposal.disk_bytes,
        free_disk_bytes=machine.free_disk_bytes,
        fixed_ms=shard.fixed_ms if shard else None,
        slope_ms=shard.slope_ms if shard else None,
        tokens_per_second=prediction.with_it if prediction else None,
        tokens_per_second_without=prediction.without if prediction else None,
        tokens_per_second_now=prediction.measured if prediction else None,
        acceptance=prediction.acceptance if prediction else None,
        acceptance_assumed=prediction.is_assumed if prediction else False,
        missing=prediction.missing if prediction else "",
    )


def _file(target: Target | None) -> str | None:
    return shown(target.path) if target is not None and target.path is not None else None


def told(preview: Preview) -> str:
    """In words, in the lines of a terminal."""
    rows = [("it would be", _part(preview.roles, preview.layers, preview.model, preview.num_layers))]
    rows += [("because", preview.why), ("model", preview.file or ""), ("draft model", preview.draft or "")]
    for one in preview.to_fetch:
        rows.append(("to fetch", f"{size(one.fetch_bytes)} of {one.model}, from {one.source}"))
        rows.append(("licence", one.licence or "not said"))
    rows.append(("memory", f"{size(preview.memory_bytes)} of the {size(preview.free_memory_bytes)} that are free"))
    written = f"{size(preview.disk_bytes)} to write" if preview.disk_bytes else "nothing to write"
    rows.append(("disk", f"{written}, {size(preview.free_disk_bytes)} are free"))
    if preview.fixed_ms is not None and preview.slope_ms is not None:
        few, many = (preview.fixed_ms + num * preview.slope_ms for num in (1, 8))
        rows.append(("speed here", f"{few:.1f} ms for one position, {many:.1f} ms for eight"))
    rows += [("replies", line) for line in _speeds(preview)]
    rows = [one for one in rows if one[1]]
    lines = [("" if index and rows[index - 1][0] == name else name, text) for index, (name, text) in enumerate(rows)]
    return f"{render.named(lines)}\nNothing was started."


def _part(roles: Sequence[str], layers: tuple[int, int] | None, model: str | None, num_layers: int | None) -> str:
    what = " and ".join(roles)
    if layers is None:
        return f"{what} for {model}" if model and "drafter" in roles else what
    return f"{what}, with layers {layers[0]}:{layers[1]} of {num_layers} of {model}"


def _speeds(preview: Preview) -> list[str]:
    """Of replies, a line each."""
    if preview.tokens_per_second is None:
        return [f"none yet: {preview.missing}"] if preview.missing else []
    known = "assumed, as the swarm gives no reply now" if preview.acceptance_assumed else "as in its replies now"
    share = preview.acceptance
    right = "" if share is None else f" ({100 * share:.0f} % of the draft tokens right, {known})"
    lines = [f"{preview.tokens_per_second:.1f} tokens a second with this node, by simulation{right}"]
    if preview.tokens_per_second_without is not None:
        lines.append(f"{preview.tokens_per_second_without:.1f} without it, by simulation")
    if preview.tokens_per_second_now is not None:
        lines.append(f"{preview.tokens_per_second_now:.1f} now, as measured")
    return lines
