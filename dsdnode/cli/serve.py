"""`dsdnode serve`: the APIs that other programs speak, on a port of this machine, for a swarm."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any

import click

from dsdnode.cli import api, connect, control, render, streams
from dsdnode.cli.options import EXIT_INTERRUPTED, common_options, join_options, json_option, load, peer_options
from dsdnode.cli.settings import Settings
from dsdnode.errors import DsdError
from dsdnode.node.status import NodeStatus


@click.command(epilog="\b\nExample:\n  dsdnode serve --join dsd://192.0.2.7:29170/KEY --api-port 8081")
@api.api_options
@join_options
@peer_options
@json_option
@common_options
def serve(as_json: bool, **flags: Any) -> int:
    """Serve a page, and the APIs of other programs.

    Those of OpenAI, Anthropic and Ollama, for a swarm, on this machine. No model and no node is needed here: it is
    a client of the swarm. `start --role gateway` serves them from a node.
    """
    return asyncio.run(_serve(load(flags, log_level="info"), as_json))


async def _serve(settings: Settings, as_json: bool) -> int:
    gateway, exit_code = api.gateway(settings), 0

    def stop(number: signal.Signals) -> None:
        nonlocal exit_code
        exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else 0
        gateway.stop()

    async def here() -> NodeStatus | None:
        """Of the node that runs here, if it is its swarm that is served."""
        with contextlib.suppress(DsdError):
            return None if settings["join"] else await control.ask(settings["data_dir"], "status", NodeStatus)
        return None

    async with connect.client(settings) as client, api.serving(gateway, client, here) as task:
        for number in control.endings():
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        if as_json:
            render.print_json({"event": "ready", "api": gateway.url})
        else:
            click.echo("serving; Ctrl-C ends it")
            api.tell(gateway.url, bool(settings["api_key"]))
        await streams.caught_up()
        await task
    return exit_code
