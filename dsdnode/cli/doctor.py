"""`dsdnode doctor`: what keeps this machine from taking part, and what to do about it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dsdnode.cli import control, render
from dsdnode.cli.options import EXIT_FAILURE, common_options, json_option, load, node_options
from dsdnode.config import NodeConfig
from dsdnode.errors import DsdError, NotRunning
from dsdnode.node.status import Situation

if TYPE_CHECKING:
    from dsdnode.doctor.finding import Finding

INDENT = 8
ASKED_S = 3.0
"""A node that runs answers at once, or not at all."""


@click.command(epilog="\b\nExample:\n  dsdnode doctor --join dsd://192.0.2.7:29170/KEY")
@click.option("--blot", is_flag=True, help="For posting: public addresses, keys, names and paths stand as words.")
@node_options
@json_option
@common_options
def doctor(blot: bool, as_json: bool, **flags: Any) -> int:
    """Say what keeps this machine from taking part.

    Worst first, and the next step. A node that runs is asked; else one is tried for some seconds, as `start` with
    the same options would. Exit code 1: something is broken that you can mend.
    """
    from dsdnode.doctor.blot import blotter_of
    from dsdnode.doctor.findings import findings

    config = load(flags, log_level="error", others_folder=True).node_config()
    if not as_json:
        num = len(config.joins)
        called = f", calling {num} member{'s' * (num > 1)}" if num else ""
        click.echo(f"looking at this machine and its network{called}: ten seconds at most ...", err=True)
    facts = asyncio.run(_examine(config))
    found = findings(facts)
    if blot:
        found = list(blotter_of(facts, os.path.expanduser("~")).blot(found))
    is_broken = any(not one.level for one in found)
    if as_json:
        told = [msgspec.structs.asdict(one) | {"level": one.level.name.lower()} for one in found]
        render.print_json({"broken": is_broken, "findings": told})
    else:
        click.echo(shown(found))
    return EXIT_FAILURE if is_broken else 0


async def _examine(config: NodeConfig) -> Any:
    from dsdnode.doctor.examine import examine

    situation, unanswered = None, ""
    try:
        async with asyncio.timeout(ASKED_S):
            situation = await control.ask(config.data_dir, "situation", Situation)
            connection = await control.ask(config.data_dir, "connection", control.Connection)
            config = replace(config, swarm_keys=connection.swarm_keys)
    except NotRunning:
        pass
    except TimeoutError:
        unanswered = "it does not answer"
    except DsdError as error:
        unanswered = str(error)
    return await examine(config, situation, unanswered)


def shown(found: Sequence[Finding]) -> str:
    """A paragraph each, and how many are broken."""
    lines = []
    for one in found:
        lines.append(render.wrapped(f"{one.level.name.lower():<{INDENT}}{one.says}", INDENT))
        if one.step:
            lines.append(render.wrapped(f"{'':{INDENT}}Next: {one.step}", INDENT))
    num = sum(not one.level for one in found)
    lines.append("Nothing is broken." if not num else f"{num} thing{'s are' if num > 1 else ' is'} broken: see above.")
    return "\n".join(lines)
