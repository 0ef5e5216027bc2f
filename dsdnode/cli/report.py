"""Commands that ask the running daemon through its control socket: stop, status, peers, models."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import click

from dsdnode.cli import control, render
from dsdnode.cli.options import common_options, json_option, load
from dsdnode.errors import NotRunning


@click.command(epilog="\b\nExample:\n  dsdnode stop")
@common_options
def stop(**flags: Any) -> None:
    """Let the running node finish its replies and end. A second `stop` meanwhile kills it."""
    data_dir = load(flags)["data_dir"]
    asyncio.run(control.ask(data_dir, "status"))
    with contextlib.suppress(NotRunning):  # killed by this second request: gone before it could answer
        asyncio.run(control.ask(data_dir, "stop"))
    control.wait_until_gone(data_dir)
    click.echo("stopped")


@click.command(epilog="\b\nExample:\n  dsdnode status --json | jq .sessions")
@json_option
@common_options
def status(as_json: bool, **flags: Any) -> None:
    """Show the running node: roles, layers, sessions, workers."""
    answer = asyncio.run(control.ask(load(flags)["data_dir"], "status"))
    if as_json:
        render.print_json(answer)
        return
    engines, sent = answer.pop("engines"), answer.pop("sent")
    for key, value in answer.items():
        click.echo(f"{key.replace('_', ' '):<12} {_said(key, value)}")
    columns = ("ENGINE OF", "MODEL", "WORKER", "CONTEXT", "MS A BLOCK", "MS A TOKEN")
    keys = ("role", "model", "worker_pid", "context_tokens", "fixed_ms", "slope_ms")
    if engines:
        click.echo("\n" + render.table(columns, ([engine[key] for key in keys] for engine in engines)))
    if sent:
        click.echo(
            "\n" + render.table(("SENT", "MESSAGES", "BYTES"), ((kind, *counts) for kind, counts in sent.items()))
        )


def _said(key: str, value: Any) -> str:
    if key == "layers":
        return render.span(value) or "-"
    if key.endswith("_s") and isinstance(value, float):
        return f"{value:.0f}"
    if isinstance(value, list):
        return render.clean(", ".join(str(one) for one in value)) or "-"
    if isinstance(value, dict):
        return render.clean(", ".join(f"{inner} {one}" for inner, one in value.items())) or "-"
    return "-" if value is None or value == "" else render.clean(str(value))


@click.command(epilog="\b\nExample:\n  dsdnode peers")
@json_option
@common_options
def peers(as_json: bool, **flags: Any) -> None:
    """List the peers that the running node knows."""
    answer = asyncio.run(control.ask(load(flags)["data_dir"], "peers"))
    render.print_json(answer) if as_json else click.echo(peers_table(answer))


@click.command(epilog="\b\nExample:\n  dsdnode models")
@json_option
@common_options
def models(as_json: bool, **flags: Any) -> None:
    """List the swarm's models, and how many host each layer."""
    answer = asyncio.run(control.ask(load(flags)["data_dir"], "models"))
    render.print_json(answer) if as_json else click.echo(models_table(answer))


def peers_table(found: list[dict[str, Any]]) -> str:
    columns = ("PEER", "ROLES", "LAYERS", "MODEL", "RTT MS", "ADDRESSES")
    rows = (
        (
            peer["peer_id"][:12],
            ",".join(peer["roles"]),
            render.span(peer["layers"]),
            peer["model"],
            peer.get("rtt_ms"),
            " ".join(peer["addresses"]),
        )
        for peer in found
    )
    return render.table(columns, rows) if found else "no other peers"


def models_table(found: list[dict[str, Any]]) -> str:
    """Below the table, what the models lack that are not complete."""
    if not found:
        return "no models are hosted here or by any peer known"
    columns = ("MODEL", "ID", "LAYERS", "DRAFTERS", "HOSTED (REPLICAS)", "COMPLETE")
    rows = (
        (
            model["name"],
            model["model_id"][:12],
            model["num_layers"],
            model["drafters"],
            ", ".join(_replicated(one) for one in model["coverage"]),
            "yes" if model["complete"] else "no",
        )
        for model in found
    )
    return "\n".join([render.table(columns, rows), *(render.clean(one["missing"]) for one in found if one["missing"])])


def _replicated(one: dict[str, Any]) -> str:
    return f"{render.span(one['layers'])} x{one['replicas']}"
