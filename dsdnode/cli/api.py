"""Where and to whom the APIs of other programs are served: flags of `serve` and `start --role gateway`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from dsdnode.cli.options import chain
from dsdnode.cli.settings import Settings

if TYPE_CHECKING:
    from dsdnode.gateway.map import Here
    from dsdnode.gateway.port import Swarm
    from dsdnode.gateway.server import Gateway

api_options = chain(
    click.option("--api-host", metavar="HOST", help="Where to serve them (127.0.0.1; others need --api-key)."),
    click.option("--api-port", metavar="PORT", help="The port (29180; 0: any)."),
    click.option(
        "--api-key",
        metavar="@FILE|KEY",
        help="Whoever asks must send it (@FILE, or DSDNODE_API_KEY: no `ps` shows it).",
    ),
    click.option("--api-origin", multiple=True, metavar="ORIGIN", help="Pages of this origin may ask; repeatable."),
)
EXAMPLE = """\\
    -d '{"messages": [{"role": "user", "content":
    "Ben has 34 stickers. Mia gives Ben 25 more. How many now?"}]}'"""
"""One that the bundled models can answer, in lines of a terminal."""


def gateway(settings: Settings) -> Gateway:
    """On its port already, so that a port in use is told before models are loaded. Raises BadInput."""
    from dsdnode.gateway.doors import Rules
    from dsdnode.gateway.server import Gateway

    rules = Rules(settings["api_key"], settings["api_origin"])
    return Gateway(settings["api_host"], settings["api_port"], rules)


@contextlib.asynccontextmanager
async def serving(made: Gateway, swarm: Swarm, here: Here | None = None) -> AsyncIterator[asyncio.Task[None]]:
    """Until the block is left, and what was asked by then is answered; the task ends when it is stopped before. `here`:
    tells of the node beside it."""
    task = asyncio.create_task(made.run(swarm, here), name="serve the APIs")
    try:
        yield task
    finally:
        made.stop()
        await task


def tell(url: str, has_key: bool) -> None:
    click.echo(f"In a browser, with a map of the swarm: {url}/")
    click.echo(f"Other programs reach it at {url}/v1 (OpenAI's), or\n{url} (Anthropic's, Ollama's):")
    key = ' -H "Authorization: Bearer KEY"' * has_key
    click.echo(f"  curl {url}/v1/chat/completions{key} {EXAMPLE}")
