"""`dsdnode start --dry-run`: what a start would do, in words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click
import msgspec

from dsdnode.cli import render
from dsdnode.config import NodeConfig
from dsdnode.files import shown

if TYPE_CHECKING:
    from dsdnode.sim.preview import Prediction, Sight

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


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


def _preview(sight: Sight, prediction: Prediction | None) -> Preview:
    proposal, machine = sight.proposal, sight.machine
    shard = next((one for one in proposal.records if one.role == "shard"), None)
    named = shard or next((one for one in sight.found.records if one.model_id == proposal.model_id), None)
    return Preview(
        roles=proposal.roles,
        why=proposal.why,
        model=named.model_name if named else None,
        model_id=proposal.model_id,
        layers=proposal.layers,
        num_layers=named.num_layers if named else None,
        file=shown(proposal.target.path) if proposal.target else None,
        draft=shown(proposal.draft.path) if proposal.draft else None,
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


def told(preview: Preview) -> str:
    """In words, in the lines of a terminal."""
    rows = [("it would be", _part(preview)), ("because", preview.why)]
    rows += [("model", preview.file)] if preview.file else []
    rows += [("draft model", preview.draft)] if preview.draft else []
    rows.append(("memory", f"{size(preview.memory_bytes)} of the {size(preview.free_memory_bytes)} that are free"))
    written = f"{size(preview.disk_bytes)} to write" if preview.disk_bytes else "nothing to write"
    rows.append(("disk", f"{written}, {size(preview.free_disk_bytes)} are free"))
    if preview.fixed_ms is not None and preview.slope_ms is not None:
        few, many = (preview.fixed_ms + num * preview.slope_ms for num in (1, 8))
        rows.append(("speed here", f"{few:.1f} ms for one position, {many:.1f} ms for eight"))
    rows += [("replies", line) for line in _speeds(preview)]
    lines = [("" if index and rows[index - 1][0] == name else name, text) for index, (name, text) in enumerate(rows)]
    return f"{render.named([one for one in lines if one[1]])}\nNothing was started."


def _part(preview: Preview) -> str:
    roles = " and ".join(preview.roles)
    if preview.layers is None or preview.num_layers is None:
        return f"{roles} for {preview.model}" if preview.model and "drafter" in preview.roles else roles
    return f"{roles}, with layers {preview.layers[0]}:{preview.layers[1]} of {preview.num_layers} of {preview.model}"


def _speeds(preview: Preview) -> list[str]:
    """Of replies, a line each."""
    if preview.tokens_per_second is None:
        return [f"none yet: {preview.missing}"] if preview.missing else []
    known = "assumed, as the swarm gives no reply now" if preview.acceptance_assumed else "as in its replies now"
    right = f" ({100 * (preview.acceptance or 0):.0f} % of the draft tokens right, {known})"
    lines = [f"{preview.tokens_per_second:.1f} tokens a second with this node, by simulation{right}"]
    if preview.tokens_per_second_without is not None:
        lines.append(f"{preview.tokens_per_second_without:.1f} without it, by simulation")
    if preview.tokens_per_second_now is not None:
        lines.append(f"{preview.tokens_per_second_now:.1f} now, as measured")
    return lines


def size(num_bytes: int) -> str:
    """As people say it, in decimal units as `--max-memory` has them."""
    unit, divisor = next((one for one in _UNITS if num_bytes >= one[1]), _UNITS[-1])
    return f"{num_bytes / divisor:.{1 if unit in ('GB', 'TB') else 0}f} {unit}"
