#!/usr/bin/env python3
"""Makes a larger model that says the same: `python scripts/pad_model.py SRC DST --layers N --ffn-width W`.

Appended layers add nothing (their last projections are zero), nor do the feed-forward's new columns; llama.cpp computes
them all the same. For measurements: the behaviour of a small pair at the cost of a large one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from dsdnode.engine.gguf import MAX_LAYERS
from dsdnode.engine.gguf_arch import check_count, supported
from dsdnode.engine.gguf_cut import layers_of
from dsdnode.engine.gguf_header import ARRAY, STRING, UINT32, Header, Tensor, Value, read_header, tensor_size_bytes
from dsdnode.engine.gguf_types import GGML_QUANT_SIZES
from dsdnode.engine.gguf_writer import NewTensor, write_gguf
from dsdnode.errors import BadInput, DsdError

ZEROED = ("attn_output.", "ffn_down")
"""What an appended layer adds to the hidden state passes one of these."""
ROWS, COLUMNS = ("ffn_gate.weight", "ffn_up.weight", "ffn_gate.bias", "ffn_up.bias"), "ffn_down.weight"


def pad(source: Path, target: Path, num_layers: int | None, ffn_width: int | None) -> None:
    """Raises BadInput, and ModelRefused for architectures that are not known well enough. All types of GGML's blocks
    are zero where their bytes are."""
    header = read_header(source)
    name, held = header.text("general.architecture"), layers_of(header)
    old_width = header.count(f"{name}.feed_forward_length")
    num_layers, ffn_width = num_layers or held, ffn_width or old_width
    check_count(header, supported(header), num_layers, held)
    if "dsdnode.model_id" in header.metadata:
        raise BadInput(f"{source}: is a shard; pad the whole model")
    if not held <= num_layers <= MAX_LAYERS or ffn_width < old_width:
        raise BadInput(f"{source}: has {held} layers (of {MAX_LAYERS} at most) and a feed-forward of {old_width}")
    if [key for key in header.metadata if key.startswith(f"{name}.") and header.metadata[key].type == ARRAY]:
        raise BadInput(f"{source}: its layers differ; models of equal layers can be padded")
    metadata = {key: value for key, value in header.metadata.items() if key != "general.alignment"} | {
        f"{name}.block_count": Value(UINT32, num_layers),
        f"{name}.feed_forward_length": Value(UINT32, ffn_width),
        "general.name": Value(STRING, f"{header.text('general.name', source.stem)} {num_layers}x{ffn_width}"),
    }
    with source.open("rb") as file:
        tensors = [NewTensor(one.name, one.shape, one.type, source=one) for one in header.tensors.values()]
        if ffn_width > old_width:
            check_widths(header, old_width)
            tensors = [widened(one, file, old_width, ffn_width) for one in header.tensors.values()]
        last = [one for one in tensors if one.name.startswith(f"blk.{held - 1}.")]
        tensors += [silent(one, layer) for layer in range(held, num_layers) for one in last]
        write_gguf(target, metadata, tensors, file)


def check_widths(header: Header, width: int) -> None:
    """Gate and up may be one tensor (phi3), or many (experts). Raises BadInput."""
    up, down = header.tensors.get("blk.0.ffn_up.weight"), header.tensors.get(f"blk.0.{COLUMNS}")
    if up is None or down is None or up.shape[1] != width or down.shape[0] != width:
        raise BadInput(f"{header.name}: its feed-forward is not of the plain kind; --layers alone can pad it")


def widened(tensor: Tensor, file: BinaryIO, old: int, new: int) -> NewTensor:
    """Of a feed-forward with `new` columns in place of `old`, the others zero."""
    rest = tensor.name.split(".", 2)[-1]
    if not tensor.name.startswith("blk.") or rest not in (*ROWS, COLUMNS):
        return NewTensor(tensor.name, tensor.shape, tensor.type, source=tensor)
    file.seek(tensor.offset)
    data = file.read(tensor.size_bytes)
    if rest in ROWS:
        shape = (*tensor.shape[:-1], new)
        return NewTensor(tensor.name, shape, tensor.type, data=filled(data, tensor_size_bytes(shape, tensor.type)))
    if new % GGML_QUANT_SIZES[tensor.type][0]:
        raise BadInput(f"--ffn-width: a multiple of {GGML_QUANT_SIZES[tensor.type][0]} is needed, for {tensor.name}")
    row, longer = (tensor_size_bytes((width,), tensor.type) for width in (old, new))
    rows = [filled(data[start : start + row], longer) for start in range(0, len(data), row)]
    return NewTensor(tensor.name, (new, tensor.shape[1]), tensor.type, data=b"".join(rows))


def filled(data: bytes, size_bytes: int) -> bytes:
    return data + bytes(size_bytes - len(data))


def silent(tensor: NewTensor, layer: int) -> NewTensor:
    """The same of an appended layer."""
    rest = tensor.name.split(".", 2)[2]
    own = replace(tensor, name=f"blk.{layer}.{rest}")
    return replace(own, source=None, data=None) if rest.startswith(ZEROED) else own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SRC")
    parser.add_argument("target", type=Path, metavar="DST")
    parser.add_argument("--layers", type=int, metavar="N", help="in all")
    parser.add_argument("--ffn-width", type=int, metavar="W")
    arguments = parser.parse_args()
    try:
        pad(arguments.source, arguments.target, arguments.layers, arguments.ffn_width)
    except (DsdError, OSError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
