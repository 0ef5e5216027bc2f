"""Commands about this installation: identity, config, version."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import click

from dsdnode.cli import render
from dsdnode.cli.options import common_options, join_options, json_option, load
from dsdnode.cli.settings import SETTINGS, user_file
from dsdnode.files import shown
from dsdnode.wire.messages import PROTOCOL_VERSION


@click.group(epilog="\b\nExample:\n  dsdnode identity show")
def identity() -> None:
    """The key that a node is known by."""


@identity.command("show", epilog="\b\nExample:\n  dsdnode identity show --json")
@click.option("--identity", metavar="PATH", help="Key file (identity.key in the data dir).")
@json_option
@common_options
def identity_show(as_json: bool, **flags: Any) -> None:
    """Show the peer id and public key; the secret stays in its file. Makes the key if there is none yet."""
    from dsdnode.identity import load_or_create

    path = load(flags).node_config().identity_file
    known = load_or_create(path)
    told = {"peer_id": known.peer_id.hex(), "public_key": known.public_key.hex(), "path": shown(path)}
    if as_json:
        render.print_json(told)
        return
    for key, value in told.items():
        click.echo(f"{key.replace('_', ' '):<12} {value}")


@click.group(epilog="\b\nExample:\n  dsdnode config show")
def config() -> None:
    """Settings and where they come from. Flag > DSDNODE_* > --config FILE > user file > built-in."""


@config.command("show", epilog="\b\nExample:\n  DSDNODE_THREADS=4 dsdnode config show")
@join_options
@json_option
@common_options
def config_show(as_json: bool, **flags: Any) -> None:
    """Show every setting, its value, and where it came from."""
    resolved = load(flags)
    rows = [(s.key, _shown(resolved[s.key], s.secret), resolved.values[s.key].source) for s in SETTINGS]
    if as_json:
        render.print_json({key: {"value": value, "source": source} for key, value, source in rows})
        return
    plain = ((key, _plain(key, value), source) for key, value, source in rows)
    click.echo(render.table(("KEY", "VALUE", "FROM"), plain))


@config.command("path", epilog='\b\nExample:\n  cat "$(dsdnode config path)"')
def config_path() -> None:
    """Show which file holds your own settings (it need not exist)."""
    click.echo(shown(user_file()))


def _shown(value: Any, secret: bool) -> Any:
    if secret:
        return "(hidden)" if value else None
    return shown(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _plain(key: str, value: Any) -> Any:
    """As it would be typed."""
    if key == "layers":
        return render.span(value)
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(str(one) for one in value) if isinstance(value, list) else value


@click.command(epilog="\b\nExample:\n  dsdnode version --json")
@json_option
def version(as_json: bool) -> None:
    """Show the versions that matter in a bug report."""
    versions = {
        "dsdnode": _installed("dsdnode"),
        "protocol": PROTOCOL_VERSION,
        "llama-cpp-python": _installed("llama-cpp-python"),
        "pyzmq": _installed("pyzmq"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if as_json:
        render.print_json(versions)
        return
    for key, value in versions.items():
        click.echo(f"{key:<17} {value}")


def _installed(package: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
