"""Commands by which a volunteer decides what this machine gives, and when: pause, resume."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from dsdnode.cli import control, render
from dsdnode.cli.options import common_options, json_option, load
from dsdnode.config import NodeConfig
from dsdnode.node.admission import USER
from dsdnode.node.status import NodeStatus

if TYPE_CHECKING:
    from dsdnode.node.node import Node

PAUSED = "paused by its user (`dsdnode resume` ends it)"


def who_may(config: NodeConfig) -> list[str]:
    """Use this node, and read what is asked: what its user should know before anybody does."""
    if config.allow:
        may = f"Those may use it that --allow names ({len(config.allow)}), and this machine's user."
    elif config.swarm_keys:
        may = "Whoever has the swarm's key may use it."
    else:
        may = "Anybody who finds it may use it: the swarm is open (--swarm-key @FILE: is not)."
    return [may, "What you ask, drafters read; who hosts layers can work it out. Relays cannot."]


def handlers(node: Node) -> dict[str, control.Handler]:
    """Of the daemon, for the commands here."""

    async def pause() -> Any:
        node.volunteering.rest(USER, PAUSED)
        return node.status()

    async def resume() -> Any:
        node.volunteering.rest(USER, "")
        return node.status()

    return {"pause": pause, "resume": resume}


@click.command(epilog="\b\nExample:\n  dsdnode pause")
@json_option
@common_options
def pause(as_json: bool, **flags: Any) -> None:
    """Have the running node take no new replies. Those in progress end; its models and caches stay where they are.

    Until `dsdnode resume`, or a new start.
    """
    status = asyncio.run(control.ask(load(flags)["data_dir"], "pause", NodeStatus))
    if as_json:
        render.print_json(status)
        return
    num = status.sessions.shard + status.sessions.drafter
    click.echo("paused: it takes nothing new" + f", {render.count(num, 'session')} in progress" * bool(num))


@click.command(epilog="\b\nExample:\n  dsdnode resume")
@json_option
@common_options
def resume(as_json: bool, **flags: Any) -> None:
    """Have the running node take replies again."""
    status = asyncio.run(control.ask(load(flags)["data_dir"], "resume", NodeStatus))
    if as_json:
        render.print_json(status)
        return
    click.echo(f"it is still {status.resting}" if status.resting else "it takes replies again")
