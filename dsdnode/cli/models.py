"""`dsdnode pull` and `dsdnode models`: models of the swarm, and those that are here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from math import inf
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dsdnode.cli import connect, control, fetching, render, report
from dsdnode.cli.options import chain, common_options, fetch_options, join_options, json_option, load, yes_option
from dsdnode.cli.settings import Settings
from dsdnode.config import parse_layers
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.files import at_home, shown
from dsdnode.swarm.info import ModelInfo
from dsdnode.weights.sources import is_source, parse_source
from dsdnode.weights.store import PARTIAL, Entry, Store, size

if TYPE_CHECKING:
    from dsdnode.client.client import Client
    from dsdnode.weights.members import Member
    from dsdnode.weights.pull import Pull

pull_options = chain(
    click.option("--layers", metavar="0:16|0-15", help="These layers alone (all, as the files are)."),
    click.option("--sha256", metavar="HEX", help="Of the whole file, where its server does not say it."),
    click.option("--dry-run", is_flag=True, help="Say what would be fetched, and fetch nothing."),
    fetch_options,
    yes_option,
    join_options,
    json_option,
    common_options,
)
"""Of `pull`, and of `models add`, which may be one."""


@click.command(epilog="\b\nExample:\n  dsdnode pull hf:ggml-org/gemma-3-270m-GGUF:Q8_0 --layers 0:9")
@click.argument("source", metavar="hf:OWNER/REPO[:QUANT]|https://HOST/FILE.gguf|MODEL")
@pull_options
def pull(source: str, **flags: Any) -> None:
    """Fetch a model, or layers of it, into the store.

    What was begun goes on. From a hub, an address, or, by the name that it has in the swarm, from members. With
    --join, or where a node runs, members that have some of it give it, too. `start --model` takes it from the
    store.
    """
    _pull(source, flags)


def _pull(source: str, flags: dict[str, Any]) -> None:
    as_json = flags.pop("as_json")
    wanted = _Wanted(
        str(parse_source(source)) if is_source(source) else source,
        *(flags.pop(name) for name in ("layers", "sha256", "dry_run", "yes")),
    )
    try:
        told = asyncio.run(_pulled(load(flags), wanted, as_json))
    except KeyboardInterrupt:
        click.echo("stopped; what came is kept, and the same command goes on from there", err=True)
        raise
    if told:
        click.echo(told)


class _Wanted:
    """Raises BadInput."""

    def __init__(self, source: str, layers: str | None, sha256: str | None, dry_run: bool, yes: bool) -> None:
        self.source, self.dry_run, self.yes = source, dry_run, yes
        self.layers = None if layers is None else parse_layers(layers)
        self.weights_hash = (sha256 or "").lower()
        if self.weights_hash and not re.fullmatch("[0-9a-f]{64}", self.weights_hash):
            raise BadInput("--sha256 takes the 64 hex digits of a file's SHA-256")


async def _pulled(settings: Settings, wanted: _Wanted, as_json: bool) -> str:
    """What is to be said at the end."""
    store, progress = Store(settings["data_dir"], settings["max_disk"]), fetching.progress_to_stderr()
    client: Client | None = None
    members: Sequence[Member] = ()
    async with AsyncExitStack() as opened:
        if is_source(wanted.source):
            pull = await _from_source(opened, settings, wanted, store, progress.tell)
        else:
            client = await opened.enter_async_context(connect.client(settings))
            rate = settings["max_download"] or inf
            pull, members = await _from_members(client, wanted, store, progress.tell, rate)
        if wanted.dry_run:
            return render.as_json(msgspec.to_builtins(pull.quote())) if as_json else fetching.in_words(pull.quote())
        if pull.known is None:
            fetching.agree(pull, wanted.yes)
            if client is None:
                client = await opened.enter_async_context(fetching.swarm(settings))
                members = await fetching.members(client, pull.manifest.weights_hash)
            await fetching.run(pull, progress, None if client is None else client.rpc, members)
        entry = store.named(pull.name)
    path = shown(store.path_of(entry))
    if as_json:
        return render.as_json({**msgspec.to_builtins(entry), "path": path, "bytes_by_source": progress.by_source})
    layers = f"layers {render.span(entry.layers)} of {entry.num_layers}"
    lines = (
        f"{entry.name}: {size(entry.size_bytes)}, {layers}",
        render.wrapped(f"  right {entry.checked}", indent=2) if entry.checked else "",
        f"  {path}",
        f"To serve it:\n  dsdnode start --role shard -m {entry.name}",
    )
    return "\n".join(line for line in lines if line)


async def _from_source(
    opened: AsyncExitStack, settings: Settings, wanted: _Wanted, store: Store, tell: Callable[[str], None]
) -> Pull:
    from dsdnode.weights.pull import pulling

    return await opened.enter_async_context(
        pulling(
            store,
            wanted.source,
            wanted.layers,
            tell,
            weights_hash=wanted.weights_hash,
            bytes_per_s=settings["max_download"] or inf,
            keep=not wanted.dry_run,
        )
    )


async def _from_members(
    client: Client, wanted: _Wanted, store: Store, tell: Callable[[str], None], rate: float
) -> tuple[Pull, Sequence[Member]]:
    from dsdnode.weights.from_members import prepare
    from dsdnode.weights.members import who_has

    weights_hash, hosts = await client.hosts(wanted.source)
    if wanted.weights_hash not in ("", weights_hash):
        raise ModelRefused(f"{wanted.source} is another model here: its SHA-256 is {weights_hash[:12]}")
    members = await who_has(client.rpc, hosts, weights_hash)
    return await prepare(store, client.rpc, members, wanted.layers, weights_hash, tell, rate), members


@click.group(
    invoke_without_command=True,
    epilog="\b\nExample (the swarm's, and those that are here):\n  dsdnode models\n  dsdnode models list",
)
@join_options
@json_option
@common_options
@click.pass_context
def models(context: click.Context, /, as_json: bool, **flags: Any) -> None:
    """List the models of the swarm.

    And how many host each layer: of the running node's swarm, or with --join of that one. `list`, `add` and `rm`
    are about those that are on this machine.
    """
    if context.invoked_subcommand is not None:
        if as_json or any(flags.values()):
            raise BadInput(f"flags stand behind the command: dsdnode models {context.invoked_subcommand} ...")
        return
    settings = load(flags)
    if flags["join"]:
        answer = asyncio.run(report.ask_swarm(settings, lambda client: client.models()))
    else:
        answer = asyncio.run(control.ask(settings["data_dir"], "models", list[ModelInfo]))
    render.print_json(answer) if as_json else click.echo(report.models_table(answer))


@models.command("list", epilog="\b\nExample:\n  dsdnode models list")
@json_option
@common_options
def list_(as_json: bool, **flags: Any) -> None:
    """List the models that were fetched or added here."""
    store = Store(load(flags)["data_dir"])
    entries, unfinished = store.entries(), store.unfinished()
    if as_json:
        render.print_json({"models": entries, "unfinished": unfinished})
        return
    if not entries and not unfinished:
        words = "none here; `dsdnode pull` fetches one, `dsdnode models add` takes one that is on this machine"
        click.echo(render.wrapped(words))
        return
    rows = [(one.name, render.span(one.layers), size(one.size_bytes), one.asked) for one in entries]
    rows += [(one.name, render.span(one.layers), f"{size(one.size_bytes)} so far", one.asked) for one in unfinished]
    click.echo(render.table(("NAME", "LAYERS", "SIZE", "SOURCE"), rows))


@models.command(epilog="\b\nExample:\n  dsdnode models add model.gguf")
@click.argument("model", metavar="PATH|SOURCE")
@pull_options
def add(model: str, **flags: Any) -> None:
    """Add a model that is on this machine, where it is; or fetch one, as `dsdnode pull` does."""
    if is_source(model):
        _pull(model, flags)
        return
    from dsdnode.engine.gguf import read_manifest
    from dsdnode.engine.gguf_parts import parts_of, size_bytes_of, stem_of

    as_json, dry_run = flags.pop("as_json"), flags.pop("dry_run")
    if flags.pop("layers") or flags.pop("sha256"):
        raise BadInput("of a file that is here `dsdnode split` cuts layers")
    flags.pop("yes")
    settings, path = load(flags), at_home(model).absolute()
    if shown(path) != str(path):
        raise BadInput(f"{shown(path)}: its name is not UTF-8, so the store cannot keep it: rename it")
    manifest = read_manifest(path, settings["data_dir"] / "cache")
    part = "" if manifest.first and manifest.last else f"-{manifest.start}-{manifest.end}"
    stem = stem_of(path).lstrip(PARTIAL) or "model"
    entry = Entry(
        name=f"{stem}{part if part not in stem else ''}-{manifest.weights_hash[:8]}",
        source=shown(path),
        asked=shown(path),
        model=manifest.model_name,
        model_id=manifest.model_id,
        weights_hash=manifest.weights_hash,
        layers=(manifest.start, manifest.end),
        num_layers=manifest.num_layers,
        files=tuple(map(str, parts_of(path))),
        size_bytes=size_bytes_of(path),
    )
    if not dry_run:
        Store(settings["data_dir"]).add(entry)
    render.print_json(entry) if as_json else click.echo(
        f"{entry.name}: {size(entry.size_bytes)}, layers {render.span(entry.layers)} of {entry.num_layers}"
    )


@models.command(epilog="\b\nExample:\n  dsdnode models rm gemma-3-270m-q4_k_m-09737755")
@click.argument("name", nargs=-1, required=True)
@json_option
@common_options
def rm(name: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Remove models that were fetched, or what is there of one; of one that was added the file stays."""
    store, names = Store(load(flags)["data_dir"]), tuple(dict.fromkeys(name))
    for one in names:
        store.check_removable(one)
    freed = [(one, store.remove(one)) for one in names]
    if as_json:
        render.print_json({"removed": [{"name": one, "freed_bytes": num_bytes} for one, num_bytes in freed]})
        return
    for one, num_bytes in freed:
        click.echo(f"{one} is gone; {size(num_bytes)} are free again")
