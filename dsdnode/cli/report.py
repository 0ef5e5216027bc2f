"""Commands that ask the running daemon through its control socket: stop, status, peers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.filesize import decimal

from dsdnode.cli import connect, control, render
from dsdnode.cli.options import common_options, join_options, json_option, load
from dsdnode.cli.settings import Settings
from dsdnode.engine.cage import Protection
from dsdnode.errors import NotRunning
from dsdnode.node.ledger import Given, GivenInAll
from dsdnode.node.status import EngineStatus, NodeStatus, sent_by_class
from dsdnode.swarm.info import Coverage, ModelInfo, PeerInfo

if TYPE_CHECKING:
    from dsdnode.client.client import Client

T = TypeVar("T")


@click.command(epilog="\b\nExample:\n  dsdnode stop")
@common_options
def stop(**flags: Any) -> None:
    """Let the running node finish its replies and end. A second `stop` meanwhile kills it."""
    data_dir = load(flags)["data_dir"]
    asyncio.run(control.ask(data_dir, "status", dict))
    with contextlib.suppress(NotRunning):  # killed by this second request: gone before it could answer
        asyncio.run(control.ask(data_dir, "stop", dict))
    control.wait_until_gone(data_dir, lambda words: click.echo(words, err=True))
    click.echo("stopped")


PROSE = ("reach", "protection", "new replies")
"""Of `status`: wrapped everywhere."""


@click.command(epilog="\b\nExample:\n  dsdnode status --json | jq .sessions")
@json_option
@common_options
def status(as_json: bool, **flags: Any) -> None:
    """Show the running node: roles, layers, sessions, workers."""
    answer = asyncio.run(control.ask(load(flags)["data_dir"], "status", NodeStatus))
    if as_json:
        render.print_json(answer)
        return
    lines = {
        "uptime s": f"{answer.uptime_s:.0f}",
        "peer id": answer.peer_id,
        "name": answer.name,
        "address": answer.address,
        "reach": answer.reach,
        "join": answer.join,
        "roles": ", ".join(answer.roles),
        **({"page, APIs": f"{answer.api}/, {answer.api}/v1"} if answer.api else {}),
        "layers": render.span(answer.layers),
        "known peers": answer.known_peers,
        "new replies": answer.resting or "taken",
        **(given_of(answer.given) if answer.given is not None else {}),
        "sessions": f"shard {answer.sessions.shard}, drafter {answer.sessions.drafter}",
        "sent": sent_of(answer),
        "protection": "" if answer.protection is None else protection_of(answer.protection),
    }
    for name, value in lines.items():
        line = f"{name:<12} {render.cell(value)}"
        click.echo(render.wrapped(line, indent=13) if name in PROSE else render.fitted(line, indent=13))
    if answer.twin:
        words = f"{'warning':<12} this identity is in use twice: its key is also at {render.cell(answer.twin)}"
        click.echo(render.fitted(words, indent=13))
    columns = ("ENGINE OF", "MODEL", "WORKER", "CONTEXT", "MS A BLOCK", "MS A TOKEN")
    engines = (
        (one.role, one.model, one.worker_pid, one.context_tokens, one.fixed_ms, one.slope_ms) for one in answer.engines
    )
    if answer.engines:
        click.echo("\n" + render.table(columns, engines))
    for one in answer.engines:
        for line in _troubles(one):
            click.echo(render.fitted(render.clean(line)))


def sent_of(status: NodeStatus) -> str:
    """Sums, of what replies cost and of what the swarm does; `--json` has each kind of message."""
    sums = sent_by_class(status.sent)
    num, num_bytes = sums["replies"]
    num_upkeep, upkeep_bytes = map(sum, zip(sums["upkeep"], sums["weights"], strict=True))
    replies = f"{render.count(num, 'message')} of replies ({decimal(num_bytes)})"
    return f"{replies}, {num_upkeep} of the swarm's upkeep ({decimal(upkeep_bytes)})"


def given_of(given: GivenInAll) -> dict[str, str]:
    """Lines of the record of what this machine gave."""

    def told(one: Given) -> str:
        replies = f"{one.replies} {'reply' if one.replies == 1 else 'replies'}"
        volume = f"{decimal(one.sent_bytes)} up, {decimal(one.received_bytes)} down"
        return f"{replies}, {render.count(one.tokens, 'token')} computed, {volume}"

    return {"gave today": told(given.today), "in 30 days": told(given.month), "in all": told(given.all)}


def _troubles(engine: EngineStatus) -> list[str]:
    """What its user should know of an engine that died, or is not offered."""
    died = f"deaths of the {engine.role}'s worker: {engine.num_deaths}; the last one: {engine.last_death}"
    rests = f"the {engine.role}'s engine is not offered: {engine.quarantined}"
    if engine.quarantined.startswith("quarantined"):
        rests = f"the {engine.role}'s engine is {engine.quarantined}; then it is tried, and offered, again"
    return [died] * bool(engine.num_deaths) + [rests] * bool(engine.quarantined)


@click.command(epilog="\b\nExample:\n  dsdnode peers")
@join_options
@json_option
@common_options
def peers(as_json: bool, **flags: Any) -> None:
    """List the peers of the swarm.

    Those that the running node knows, or with --join those of that swarm."""
    settings = load(flags)
    if flags["join"]:
        answer = asyncio.run(ask_swarm(settings, lambda client: client.peers()))
    else:
        answer = asyncio.run(control.ask(settings["data_dir"], "peers", list[PeerInfo]))
    render.print_json(answer) if as_json else click.echo(peers_table(answer))


async def ask_swarm(settings: Settings, ask: Callable[[Client], Awaitable[T]]) -> T:
    """No node needs to run here for that."""
    async with connect.client(settings) as client:
        return await ask(client)


def protection_of(protection: Protection) -> str:
    """What the engines' workers cannot do to this machine, and what this system leaves out of it."""
    holds = ", ".join(protection.holds) or "none"
    return holds + (f" (without {'; '.join(protection.left_out)})" if protection.left_out else "")


def peers_table(found: Sequence[PeerInfo]) -> str:
    names = ["NAME"] * any(peer.name for peer in found)
    columns = ("PEER", *names, "ROLES", "LAYERS", "MODEL", "RTT MS", "WAY", "SEEN", "ADDRESSES")
    rows = (
        (
            peer.peer_id[:12],
            *(peer.name for _ in names),
            ",".join(peer.roles),
            render.span(peer.layers),
            peer.model,
            peer.rtt_ms,
            peer.link,
            _seen(peer),
            " ".join(peer.addresses),
        )
        for peer in found
    )
    return render.table(columns, rows) if found else "no other peers"


def _seen(peer: PeerInfo) -> str:
    if peer.rtt_ms is not None:
        return "now"
    return "never" if peer.seen_s is None else f"{peer.seen_s:.0f} s ago"


def models_table(found: Sequence[ModelInfo]) -> str:
    """Of the hosts of each range, how many answer now. Below the table, what the models lack that are not complete."""
    if not found:
        return "no models are hosted here or by any peer known"
    columns = ("MODEL", "ID", "LAYERS", "DRAFTERS", "HOSTED (ANSWERING)", "WAYS", "COMPLETE")
    rows = (
        (
            model.name,
            model.model_id[:12],
            model.num_layers,
            model.drafters,
            ", ".join(map(_hosted, model.coverage)),
            ", ".join(f"{way} x{num}" for way, num in model.ways.items()),
            "yes" if model.complete else "not now" if model.once_complete else "no",
        )
        for model in found
    )
    return "\n".join([render.table(columns, rows), *(render.clean(one.missing) for one in found if one.missing)])


def _hosted(one: Coverage) -> str:
    there = "" if one.answering == one.replicas else f" ({one.answering})"
    return f"{render.span(one.layers)} x{one.replicas}{there}"
