"""What `scripts/demo` runs: a swarm of separate daemons on this machine, a chat with it, and everything down again."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from dsdnode.bench.daemons import Daemon, even_ranges, isolate, leaving_by_exception, run_leaving, take_down
from dsdnode.cli import api, connect, reply_flags
from dsdnode.cli.chat import converse
from dsdnode.cli.options import common_options, json_option, load
from dsdnode.cli.run import reply_once, text_request
from dsdnode.cli.settings import ENV_PREFIX, Settings
from dsdnode.errors import BadInput, DsdError, NoPipeline

READY_WITHIN_S = 20.0
ALIVE_S = 1.0
"""So often it is looked at whether the one that serves lives."""
EXAMPLE = "Ben has 34 stickers. Mia gives Ben 25 more. How many stickers does Ben have now?"
"""What the demo models were trained for."""


@click.command(hidden=True, epilog='\b\nExample:\n  scripts/demo --shards 4 --prompt "What is 12 plus 30?"')
@click.option("--shards", default=3, show_default=True, metavar="N", help="Shard peers to split the demo target over.")
@click.option("--prompt", metavar="TEXT", help="Answer this once and leave, in place of a chat.")
@click.option("--serve", is_flag=True, help="Serve a page and other programs' APIs until Ctrl-C, in place of a chat.")
@click.option(
    "--api-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Where --serve does (29180; 0: any).",
)
@reply_flags.reply_options
@json_option
@common_options
def demo(shards: int, prompt: str | None, serve: bool, api_port: int | None, as_json: bool, **flags: Any) -> None:
    """Start a bootstrap, shards and a drafter as daemons of their own on the demo models, and talk with them."""
    wanted = reply_flags.take(flags)
    if serve and (as_json or prompt is not None):
        raise BadInput("--serve answers browsers and programs until Ctrl-C: it goes without --prompt and --json")
    if api_port is not None and not serve:
        raise BadInput("--api-port goes with --serve")
    if as_json and prompt is None:
        raise BadInput("--json goes with --prompt")
    request = None if prompt is None else text_request(wanted, prompt, raw=False)
    temporary = tempfile.TemporaryDirectory(prefix="dsdnode-demo-", ignore_cleanup_errors=True)
    with leaving_by_exception(), temporary as folder:
        isolate(Path(folder), ENV_PREFIX)
        port = () if api_port is None else ("--api-port", str(api_port))
        gateway = ("--role", "gateway", *port) if serve else ()
        with _daemons(Path(folder), shards, gateway) as (join, drafter, api_url):
            settings = load({**flags, "join": (join,), "swarm_key": None})
            run_leaving(_wait_complete(settings))
            if serve:
                run_leaving(_serve(drafter, api_url))
            elif request is None:
                run_leaving(converse(settings, wanted, example=EXAMPLE))
            else:
                run_leaving(reply_once(settings, request, as_json))


async def _serve(daemon: Daemon, url: str) -> NoReturn:
    """Until a signal's exception. Raises DsdError when the daemon has ended."""
    api.tell(url, has_key=False)
    click.echo("Ctrl-C ends all of it")
    while daemon.process.poll() is None:  # noqa: ASYNC110 (no event tells it)
        await asyncio.sleep(ALIVE_S)
    raise DsdError("the daemon that served, the drafter, has ended")


@contextmanager
def _daemons(folder: Path, num_shards: int, gateway: Sequence[str]) -> Iterator[tuple[str, Daemon, str]]:
    """All daemons, ready; yields how to join them, the drafter, and where it serves APIs, if `gateway`, more words for
    it, says so. However it is left, none survives."""
    ranges = _ranges(num_shards)
    running: list[Daemon] = []
    began_s = time.monotonic()
    if sys.stderr.isatty():
        click.echo("starting daemons ...\r", err=True, nl=False)  # what comes next overwrites it
    try:
        running.append(Daemon(folder / "bootstrap", "--role", "bootstrap"))
        join = running[0].ready().join
        for layers in ranges:
            running.append(Daemon(folder / f"shard-{layers.replace(':', '-')}", "--role", "shard", *_to(join, layers)))
        running.append(Daemon(folder / "drafter", "--role", "drafter", *gateway, "--join", join))
        api_url = [daemon.ready().api for daemon in running[1:]][-1]
        took_s = time.monotonic() - began_s
        shards = f"{num_shards} shard{'s' * (num_shards > 1)} (layers {', '.join(ranges)})"
        _tell(f"a bootstrap, {shards} and a drafter, up in {took_s:.1f} s")
        _tell(f"from a second terminal, as long as this runs:\n  {_command()} chat --join {join}")
        yield join, running[-1], api_url
    finally:
        take_down(running)


def _command() -> str:
    """How this very program is called from another terminal, in the folder where this one was."""
    beside = Path(sys.executable).parent / "dsdnode"
    return shlex.quote(os.path.relpath(beside) if beside.exists() else "dsdnode")


def _to(join: str, layers: str) -> tuple[str, ...]:
    return "--join", join, "--layers", layers


def _ranges(num_shards: int) -> list[str]:
    from dsdnode.engine.gguf import read_manifest
    from dsdnode.models import demo_target

    return even_ranges(read_manifest(demo_target()).num_layers, num_shards)


async def _wait_complete(settings: Settings) -> None:
    """Until the swarm tells that some model is complete and has a drafter. Raises NoPipeline."""
    async with connect.client(settings) as client:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not any(m.complete and m.drafters for m in await client.models()):  # noqa: ASYNC110 (no event tells it)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise NoPipeline(f"the demo's daemons did not find one another within {READY_WITHIN_S:.0f} s") from None


def _tell(text: str) -> None:
    click.echo(text, err=True)
