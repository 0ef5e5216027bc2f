"""The flags that several commands share; their values go to settings.py as they were typed."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import structlog

from dsdnode.cli import logs, swarm_keys
from dsdnode.cli.settings import BUILT_IN, LOG_FORMATS, LOG_LEVELS, Settings, SettingValue, resolve
from dsdnode.config import ACCEPTANCES, DEFAULT_THRESHOLD, ROLES
from dsdnode.files import check_own
from dsdnode.pacing.policies import PLANS, POLICIES
from dsdnode.wire.messages import WIRE_TYPES
from dsdnode.wire.numbers import EXACT_WIRE

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
log = structlog.get_logger()
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(slots=True)
class Invocation:
    """What `main` must know when a command has failed; `argv` starts the same command again, detached."""

    argv: list[str] = field(default_factory=list)
    verbose: bool = False
    data_dir: Path | None = None
    """None: the settings are not known yet."""


def chain(*decorators: Decorator) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


PATH = click.Path(path_type=Path, readable=False)
"""Whoever opens it says why it cannot be read, with an exit code of its own."""


class Number(click.FloatRange):
    """From `min` to `max`, and a number: nan is in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


common_options = chain(
    click.option("--config", type=PATH, help="Read settings from this TOML file."),
    click.option("--data-dir", metavar="DIR", help="Identity, control socket, history and log; one daemon each."),
    click.option("--log-level", metavar="|".join(LOG_LEVELS), help="What is logged to stderr (info)."),
    click.option("--log-format", metavar="|".join(LOG_FORMATS), help="How it is logged (auto: pretty on a terminal)."),
    click.option("-v", "--verbose", is_flag=True, help="Log everything, and show tracebacks."),
    click.option("-q", "--quiet", is_flag=True, help="Log errors only."),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
join_options = chain(
    click.option(
        "--join",
        "--bootstrap",
        "--initial-peers",
        "join",
        multiple=True,
        metavar="CODE|dsd://HOST:PORT/KEY",
        help="A code of `dsdnode invite`, or the join string of any member; repeatable.",
    ),
    click.option(
        "--swarm-key",
        multiple=True,
        metavar="@FILE|KEY",
        help="Secret of a private swarm; proven, never sent. Twice while a new one (first) replaces an old one.",
    ),
)
fetch_options = chain(
    click.option("--max-disk", metavar="200GB", help="Of all models that were fetched (what the disk has to spare)."),
    click.option("--max-download", metavar="2MB/s", help="While models are fetched (what the line gives)."),
)
peer_options = chain(
    click.option(
        "--allow", multiple=True, metavar="PEER|@FILE", help="Serve these peers alone, and be served by them alone."
    ),
    click.option("--block", multiple=True, metavar="PEER|@FILE", help="Neither serve these, nor be served by them."),
)
"""Of `start`: both ways, its drafter's stages too; of `run`, `chat`, `serve`: which drafters are asked."""
yes_option = click.option("--yes", is_flag=True, help="Fetch without asking.")
policy_options = chain(
    click.option(
        "--window",
        metavar="NAME",
        help=f"What decides how much is drafted, and when (throughput): {', '.join(POLICIES)}, {PLANS}.",
    ),
    click.option("--acceptance", metavar="|".join(ACCEPTANCES), help="All but exact may change the text, and say so."),
    click.option("--threshold", metavar="T", help=f"How lax relaxed acceptance is, below 1 ({DEFAULT_THRESHOLD})."),
    click.option(
        "--wire",
        metavar="|".join((EXACT_WIRE, *WIRE_TYPES)),
        help="Type in which hidden states travel (auto: f32, and a word where links are the limit).",
    ),
    click.option("--patience", metavar="SECONDS", help="A reply that stands still for so long ends (60)."),
)
"""Of `start`: what its drafter does with replies that do not say; of `run` and `chat`: what they say."""
node_options = chain(
    click.option(
        "--role", multiple=True, metavar="|".join(ROLES), help="Repeatable (auto: what brings the swarm most)."
    ),
    join_options,
    click.option(
        "--listen", metavar="tcp://HOST:PORT", help="Where to be reached ([::]:29170, all addresses; port 0: any)."
    ),
    click.option("--advertise", multiple=True, metavar="tcp://HOST:PORT", help="What others should dial instead."),
    click.option("--no-relay", is_flag=True, default=None, help="Relay nothing for peers that others do not reach."),
    click.option("--relay-rate", metavar="20Mbit/s", help="Relay so much at most, of all of them (20Mbit/s)."),
    click.option(
        "-m",
        "--model",
        metavar="PATH|hf:REPO:QUANT",
        help="Target of a shard: whole GGUF, shard file, or whence it is fetched (bundled demo).",
    ),
    click.option(
        "-md",
        "--model-draft",
        metavar="PATH|hf:REPO:QUANT|none",
        help="Draft model of a drafter (bundled demo); none: it copies.",
    ),
    click.option("--layers", metavar="0:16|0-15", help="Layers to host (those the swarm needs most)."),
    click.option("-c", "--ctx-size", metavar="TOKENS", help="Cache of each engine, shared by its sessions (8192)."),
    click.option("-t", "--threads", metavar="N", help="Threads of each engine (one a physical core)."),
    click.option("-ngl", "--gpu-layers", metavar="N", help="Layers to put on the GPU (0)."),
    click.option("--max-sessions", metavar="N", help="Replies served at once (8)."),
    click.option("--max-memory", metavar="6GB", help="Refuse models, or take fewer layers, beyond this."),
    click.option(
        "--draft-max",
        "--spec-draft-n-max",
        "draft_max",
        metavar="N",
        help="Draft tokens in a round or block at most, when a request does not say (8; 0: plain decoding).",
    ),
    fetch_options,
    click.option(
        "--max-upload", metavar="2MB/s", help="All that it sends (2.5MB/s of models, else no limit; 0: no models)."
    ),
    peer_options,
    click.option("--hours", metavar="20:00-08:00", help="Serve others then, by this machine's clock (always)."),
    click.option("--on-battery", is_flag=True, default=None, help="Serve others on battery, too (paused then)."),
    click.option("--on-metered", is_flag=True, default=None, help="So in a network paid by volume (paused then)."),
    policy_options,
    click.option("--strict", is_flag=True, default=None, help="Engine setting with rounding independent of blocks."),
    click.option("--name", metavar="NAME", help="A nickname, shown to others by `peers`."),
    click.option("--identity", metavar="PATH", help="Key file (identity.key in the data dir)."),
)


def load(flags: Mapping[str, Any], log_level: str = "warning", others_folder: bool = False) -> Settings:
    """Settings of this call, and the log as they say (`log_level` when they do not). Raises BadInput.

    `flags` are a command's own arguments: those of `common_options` and of any other group above. `others_folder`: the
    data dir may be somebody else's; the command itself says so.
    """
    rest = dict(flags)
    config, verbose, quiet = rest.pop("config"), rest.pop("verbose"), rest.pop("quiet")
    if rest.get("log_level") is None and (verbose or quiet):
        rest["log_level"] = "debug" if verbose else "error"
    settings = resolve(rest, os.environ, config)
    if not others_folder:
        check_own(settings["data_dir"])
    swarm_keys.forget(os.environ)
    invocation = click.get_current_context().find_object(Invocation)
    if invocation is not None:
        invocation.verbose = verbose
        invocation.data_dir = settings["data_dir"]
    said = settings.values["log_level"]
    logs.set_up(log_level if said.source == BUILT_IN else said.value, settings["log_format"], sys.stderr)
    for key, secret in (("swarm_key", swarm_keys.SWARM_KEY), ("api_key", swarm_keys.API_KEY)):
        if key in flags:
            _warn(settings.values[key], secret)
    return settings


def _warn(said: SettingValue, secret: swarm_keys.Secret) -> None:
    keys = said.value if isinstance(said.value, tuple) else (said.value,) * bool(said.value)
    for warning in swarm_keys.warnings_about(said.said, keys, said.source == secret.flag, secret):
        log.warning(warning)
