"""`dsdnode split`: cut a layer range out of a model file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from dsdnode import files
from dsdnode.cli.options import PATH, common_options, json_option, load
from dsdnode.config import parse_layers
from dsdnode.files import shown


@click.command(epilog="\b\nExample:\n  dsdnode split model.gguf --layers 0:16 -o model-0-16.gguf")
@click.argument("model", type=PATH)
@click.option("--layers", required=True, metavar="0:16|0-15", help="Half-open with a colon, inclusive with a dash.")
@click.option("-o", "--output", required=True, type=PATH, help="The shard file to write.")
@json_option
@common_options
def split(model: Path, layers: str, output: Path, as_json: bool, **flags: Any) -> None:
    """Cut layers out of a GGUF model, exact to the bit. `dsdnode start --model` serves the shard."""
    from dsdnode.bench.daemons import leaving_by_exception
    from dsdnode.engine.gguf import cut

    cache_folder = load(flags)["data_dir"] / "cache"
    start, end = parse_layers(layers)
    files.output(output)  # a large model is hashed before it is cut
    with leaving_by_exception():  # else half a model would stay beside it
        made = cut(model, start, end, output, _show_progress if sys.stderr.isatty() else None, cache_folder)
    size_bytes = output.stat().st_size
    if as_json:
        told = {
            "path": shown(output),
            "model": made.model_name,
            "model_id": made.model_id,
            "layers": [made.start, made.end],
        }
        click.echo(json.dumps({**told, "num_layers": made.num_layers, "size_bytes": size_bytes}))
        return
    click.echo(
        f"{shown(output)}: layers {made.start}:{made.end} of {made.num_layers} of {made.model_name}, "
        f"{size_bytes / 1e6:.1f} MB"
    )


def _show_progress(num_done_bytes: int, num_all_bytes: int) -> None:
    end = "\n" if num_done_bytes >= num_all_bytes else ""
    print(f"\r{num_done_bytes / 1e6:.0f} of {num_all_bytes / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)
