"""`dsdnode serve`: the APIs that other programs speak, on a port of this machine, for a swarm."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import click

from dsdnode.cli import connect, render, streams
from dsdnode.cli.options import EXIT_INTERRUPTED, common_options, join_options, json_option, load
from dsdnode.cli.settings import Settings


@click.command(epilog="\b\nExample:\n  dsdnode serve --join dsd://192.0.2.7:29170/KEY --api-port 8081")
@click.option("--api-host", metavar="HOST", help="Where to listen (127.0.0.1; others need --api-key).")
@click.option("--api-port", metavar="PORT", help="The port (29180; 0: any).")
@click.option("--api-key", metavar="@FILE|KEY", help="Whoever asks must send it.")
@click.option("--api-origin", multiple=True, metavar="ORIGIN", help="Pages of this origin may ask; repeatable.")
@join_options
@json_option
@common_options
def serve(as_json: bool, **flags: Any) -> int:
    """Serve OpenAI's, Anthropic's and Ollama's APIs for a swarm, on this machine.

    Point any program at http://127.0.0.1:29180/v1 (OpenAI), or at http://127.0.0.1:29180 (Anthropic, Ollama).
    """
    return asyncio.run(_serve(load(flags, log_level="info"), as_json))


async def _serve(settings: Settings, as_json: bool) -> int:
    from dsdnode.gateway.doors import Rules
    from dsdnode.gateway.server import Gateway

    host, exit_code = settings["api_host"], 0
    rules = Rules(settings["api_key"], settings["api_origin"])
    async with connect.client(settings) as client:
        gateway = Gateway(client, host, settings["api_port"], rules)

        def stop(number: signal.Signals) -> None:
            nonlocal exit_code
            exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else 0
            gateway.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        serving = asyncio.create_task(gateway.run())
        _print_ready(gateway.url, as_json)
        await streams.caught_up()
        await serving
    return exit_code


def _print_ready(url: str, as_json: bool) -> None:
    if as_json:
        render.print_json({"url": url})
        return
    click.echo(f"serving at {url}")
    click.echo(f"  OpenAI     {url}/v1")
    click.echo(f"  Anthropic  {url}")
    click.echo(f"  Ollama     {url}")
    body = '{"messages": [{"role": "user", "content": "What is 12 plus 30?"}]}'
    click.echo(f"Try:\n  curl {url}/v1/chat/completions -d '{body}'")
