"""`dsdnode start`: one daemon, in the foreground or detached, from its readiness to its drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec
import structlog

from dsdnode.cli import api, control, fetching, logs, preview, render, streams, swarm_keys, volunteering
from dsdnode.cli.connect import of_own
from dsdnode.cli.options import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    Invocation,
    common_options,
    json_option,
    load,
    node_options,
    yes_option,
)
from dsdnode.config import AUTO, GATEWAY, NodeConfig, default_data_dir
from dsdnode.cost import CostLine
from dsdnode.errors import BadInput, DsdError
from dsdnode.files import output, shown, words
from dsdnode.node.status import Ready

if TYPE_CHECKING:
    from dsdnode.gateway.server import Gateway
    from dsdnode.node.fetching import User
    from dsdnode.node.node import Node

MAX_READY_BYTES = 64 * 1024
REACHED_S = 10.0
"""So long it may take to be reached, by way of a relay perhaps, before anything is said of it."""
QUIET_S = 10.0
"""So long a detached start may take before a word: models are loaded, members called."""
log = structlog.get_logger()


@click.command(epilog="\b\nExample:\n  dsdnode start --role shard --layers 0:4 --join dsd://192.0.2.7:29170/KEY")
@node_options
@yes_option
@api.api_options
@click.option("--dry-run", is_flag=True, help="Say what it would do, and what the swarm would give; start nothing.")
@click.option("--detach", is_flag=True, help="Return when the node is ready and leave it running (`dsdnode stop`).")
@click.option("--detached", is_flag=True, hidden=True, help="The one that --detach started: log into the data dir.")
@click.option("--emulate-ms", type=(click.FloatRange(0, 1e5), click.FloatRange(0, 1e4)), hidden=True)
@click.option("--leash", is_flag=True, hidden=True, help="End when standard input does: whoever began us is gone.")
@json_option
@common_options
@click.pass_obj
def start(
    invocation: Invocation,
    /,
    dry_run: bool,
    detach: bool,
    detached: bool,
    as_json: bool,
    leash: bool,
    yes: bool,
    emulate_ms: tuple[float, float] | None,
    **flags: Any,
) -> int:
    """Start a node. With nothing said it takes the part that brings the swarm most: the one to join, the one that it
    last knew, or one of its own with the bundled demo models."""
    settings = load(flags, log_level="error" if dry_run else "info")
    settings.check_used(settings["role"])
    config = replace(settings.node_config(), emulate=None if emulate_ms is None else CostLine.of_ms(*emulate_ms))
    lent = settings.values["swarm_key"].lent
    if dry_run:
        return preview.dry_run(config, as_json)
    config = asyncio.run(_fetched(config, yes))
    if detach:
        return _detach(invocation.argv, config, as_json, lent, settings["api_key"])
    if detached:
        logs.to_file(output(_log_file(config)))
    gateway = api.gateway(settings) if GATEWAY in config.roles else None
    if emulate_ms is None:  # (the fine loop's select() sees no descriptor beyond 1,023)
        raise_descriptor_limit()
    with asyncio.Runner(loop_factory=None if emulate_ms is None else _fine_loop) as runner:
        return runner.run(serve(config, as_json, leash, lent, preview.Person(yes), gateway))


async def _fetched(config: NodeConfig, yes: bool) -> NodeConfig:
    """What was named is here; but a node that chooses its layers itself fetches its model then, and not all of it."""
    if AUTO not in config.roles or not config.model_source:
        return await fetching.fetched(config, yes)
    others = await fetching.fetched(replace(config, model_source=""), yes)
    return replace(others, model_source=config.model_source)


def raise_descriptor_limit() -> None:
    """As many descriptors as this user may have: each connection takes one, and strangers make connections."""
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # a system may allow less than it says
        log.info("the limit of descriptors stays", soft=soft, hard=hard, reason=str(error))


def _fine_loop() -> asyncio.AbstractEventLoop:
    from dsdnode.engine.slow import fine_loop

    return fine_loop()


class Ending:
    """What the signals have said: the first drains, the second kills, workers included. A window that is closed says it
    twice: by its shell, and by the system when that has ended."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.exit_code = 0
        self.starting: asyncio.Task[Node] | None = None

    def on_signal(self, number: signal.Signals) -> None:
        if self.asked.is_set() and number == signal.SIGHUP:
            return
        if self.asked.is_set():
            _kill(EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_FAILURE)
        self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else 0
        self.asked.set()
        if self.starting is not None:
            self.starting.cancel()
        log.info("draining; a second signal kills", signal=number.name)

    def on_input(self) -> None:
        """Nobody waits for a drain any more, and the folder that we live in is nobody's."""
        if not os.read(sys.stdin.fileno(), MAX_READY_BYTES):
            _kill(EXIT_FAILURE)


async def serve(
    config: NodeConfig,
    as_json: bool,
    leash: bool = False,
    lent: Sequence[str] = (),
    user: User | None = None,
    gateway: Gateway | None = None,
) -> int:
    """Start a node, say that it is ready, and serve until told to end; the exit code. Raises what Node.start raises.

    `lent`: swarm keys that an invitation has brought; `gateway`: for other programs.
    """
    from dsdnode.node.node import Node

    loop = asyncio.get_running_loop()
    ending = Ending()
    for number in control.endings():
        loop.add_signal_handler(number, ending.on_signal, number)
    if leash:
        loop.add_reader(sys.stdin.fileno(), ending.on_input)
    with control.hold(config.data_dir):
        ending.starting = asyncio.create_task(Node.start(config, user))
        try:
            node = await ending.starting
        except asyncio.CancelledError:
            if ending.asked.is_set():
                return ending.exit_code
            raise
        finally:
            ending.starting = None
        gc.freeze()  # what is here stays; each full collection would stop the loop for 30 ms to find that out
        try:
            url = gateway.url if gateway is not None else ""
            handlers = _handlers(node, config, ending, url)
            async with control.serve(config.data_dir, handlers), _riding(node, config, gateway):
                resting = node.status().resting
                ready = Ready(node.peer_id.hex(), node.address, node.join, node.roles, node.layers, url, resting)
                _print_ready(ready, as_json, config, gateway is not None and gateway.has_key)
                node.discovery.checks.is_said = not as_json
                _keep(lent, as_json, config)
                told = asyncio.create_task(_told(node, as_json), name="tell that we are ready, and how we are reached")
                again = asyncio.create_task(_tell_again(node, config), name="tell where we are reached")
                await ending.asked.wait()
                told.cancel()
                again.cancel()
                await _drain(node, config.timeouts.drain_s)
        finally:
            await node.close()
    return ending.exit_code


@contextlib.asynccontextmanager
async def _riding(node: Node, config: NodeConfig, gateway: Gateway | None) -> AsyncIterator[None]:
    """The gateway beside a node, as a client of its swarm."""
    if gateway is None:
        yield
        return
    from dsdnode.client.client import Client

    async def here() -> Any:
        return node.status()

    guest = node.volunteering.guest()
    client = await Client.connect([node.join_here], config.swarm_keys, config.patience_s, identity=guest)
    client.restrict(of_own(node.join_here, config.allow, config.block))
    try:
        async with api.serving(gateway, client, here):
            yield
    finally:
        await client.close()


async def _told(node: Node, as_json: bool) -> None:
    """Whoever reads what was said, and whether anybody does: the node serves."""
    try:
        await streams.caught_up()
        if not as_json:
            await _tell_reach(node)
    except (DsdError, BrokenPipeError) as error:
        log.warning("nobody was told that the node is ready", reason=str(error))
    finally:
        streams.forget()


async def _tell_again(node: Node, config: NodeConfig) -> None:
    """What was said when it was ready may lead nowhere from outside: it was not known where others reach it."""
    join = await node.reached_elsewhere(node.join)
    log.info(f"on the next machine, from now on: {_next(join, config)}")


async def _tell_reach(node: Node) -> None:
    """How others reach it, once they do; and before, where that takes long, why they do not. Later the log tells."""
    checks = node.discovery.checks
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REACHED_S):
            await checks.until_usable()
    _print_reach(node)
    if not checks.is_usable:
        await streams.caught_up()
        await checks.until_usable()
        _print_reach(node)
    await streams.caught_up()


def _print_reach(node: Node) -> None:
    status = node.status()
    click.echo(render.wrapped(f"after {status.uptime_s:.1f} s: {status.reach}"))


def _handlers(node: Node, config: NodeConfig, ending: Ending, api: str) -> dict[str, control.Handler]:
    async def status() -> Any:
        return msgspec.structs.replace(node.status(), api=api)

    async def connection() -> Any:
        """How this user's own `chat` reaches the node's swarm; the socket is readable by nobody else."""
        guest = node.volunteering.guest().seed.hex()
        return control.Connection(node.join_here, config.swarm_keys, guest, node.volunteering.why_not_its_user)

    async def situation() -> Any:
        return node.situation()

    async def stop() -> Any:
        ending.on_signal(signal.SIGTERM)
        return {"draining": True}

    asked = {"status": status, "peers": node.peers, "models": node.models, "inviting": node.inviting}
    asked |= {"situation": situation, "connection": connection, "stop": stop}
    return asked | volunteering.handlers(node)


async def _drain(node: Node, drain_s: float) -> None:
    try:
        async with asyncio.timeout(drain_s):
            await node.drain()
    except TimeoutError:
        log.warning("replies were still running when the time to drain was over", drain_s=drain_s)


def _kill(exit_code: int) -> NoReturn:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(exit_code)


def _here(config: NodeConfig) -> str:
    """What other commands need to find this node."""
    return "" if config.data_dir == default_data_dir() else f" --data-dir {shlex.quote(shown(config.data_dir))}"


def _print_ready(ready: Ready, as_json: bool, config: NodeConfig, has_key: bool) -> None:
    if as_json:
        render.print_json(ready)
        return
    hosted = ", layers {}:{}".format(*ready.layers) if ready.layers else ""
    click.echo("ready; finding out whether others reach this node ...")
    click.echo(f"  roles    {', '.join(ready.roles)}{hosted}")
    click.echo(f"  peer id  {ready.peer_id}")
    click.echo(f"  address  {ready.address}")
    for line in volunteering.who_may(config):
        click.echo(line)
    if ready.resting:
        click.echo(f"Now it is {ready.resting}")
    click.echo(f"On the next machine:\n  {_next(ready.join, config)}")
    click.echo(f"As one word, for a chat or a phone, with other members in it:\n  dsdnode invite{_here(config)}")
    if "bootstrap" not in ready.roles:
        click.echo(f"To talk to it:\n  dsdnode chat{_here(config)}")
    if ready.api:
        api.tell(ready.api, has_key)


def _detach(argv: list[str], config: NodeConfig, as_json: bool, lent: Sequence[str], api_key: str) -> int:
    """Start the same command in a session of its own, its log in the data dir; wait for its readiness line."""
    with control.hold(config.data_dir):
        pass  # fail here, in words, when one is running
    path = _log_file(config)
    output(path)
    argv = [word for word in swarm_keys.without_keys(argv) if word not in ("--detach", "--json")]
    with words(path):
        log_file = path.open("ab")
    with log_file, swarm_keys.handed_over(config.swarm_keys, api_key) as (keys, pipes):
        begin = log_file.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "dsdnode.cli", *argv, *_joined(config), *keys, "--json", "--detached"],
            pass_fds=pipes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            start_new_session=True,
        )
    assert child.stdout is not None
    try:
        if not select.select([child.stdout], [], [], QUIET_S)[0]:
            click.echo(f"not ready yet; what it does is in {shown(path)}, and Ctrl-C ends it", err=True)
        line = child.stdout.readline(MAX_READY_BYTES)
    except KeyboardInterrupt:
        child.terminate()
        raise
    if not line:
        code, said = child.wait(), path.read_bytes()
        return _explain(code, said[begin if begin <= len(said) else 0 :].decode(errors="replace"), path)
    _print_ready(msgspec.json.decode(line, type=Ready), as_json, config, bool(api_key))
    _keep(lent, as_json, config)
    if not as_json:
        here = _here(config)
        click.echo(f"It runs on as process {child.pid}, its log in {shown(path)}.")
        click.echo(f"`dsdnode status{here}` says how others reach it, `dsdnode stop{here}` ends it.")
    return 0


def _keep(lent: Sequence[str], as_json: bool, config: NodeConfig) -> None:
    """An invitation's keys are needed again at the next start."""
    try:
        paths = swarm_keys.keep(config.data_dir, lent)
    except (OSError, BadInput) as error:
        log.warning("the invitation's swarm key is not kept for the next start", reason=str(error))
        return
    said = " ".join(f"--swarm-key @{shlex.quote(shown(path))}" for path in paths)
    if paths and not as_json:
        click.echo(f"The swarm's key came with the invitation, and is kept. At the next start of this node:\n  {said}")


def _next(join: str, config: NodeConfig) -> str:
    """The command that another machine comes in by."""
    return f"dsdnode start --join {join}" + " --swarm-key @FILE_WITH_THE_SAME_KEY" * bool(config.swarm_keys)


def _joined(config: NodeConfig) -> list[str]:
    """Codes do not go on to the child, but whom they name."""
    return [word for join in config.joins for word in ("--join", join)]


def _log_file(config: NodeConfig) -> Path:
    return config.data_dir / "node.log"


def _explain(code: int, said: str, log_file: Path) -> int:
    """The node ended before it was ready: pass on its own last word and exit code, or why it could not say any."""
    if not said:
        with words(log_file), log_file.open("ab") as file:
            file.write(b"the node ended before it was ready, without a word\n")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code <= 0 or not errors:
        raise DsdError("the node ended before it was ready:\n" + "\n".join(said.splitlines()[-20:]))
    click.echo(errors[-1], err=True)
    return code
