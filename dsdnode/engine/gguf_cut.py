"""Plans a shard: the metadata and tensors that make layers [start, end) a small model llama.cpp loads by itself.

    part                  first shard          middle shard     last shard
    token_embd.weight     the real one         tiny dummy       the head (output.weight or the tied embeddings)
    output.weight         left out: tied       left out         left out
    output_norm           ones                 ones             the real one
    blk.<i>.*             renumbered from 0, bytes copied whatever the quantisation
    rope factors          in every shard

Where the loader insists on `output.weight` (`Architecture.needs_output`), the one of the pair that a shard lacks is a
dummy of the declared vocabulary. Text never enters a shard: it has no tokenizer. A block that guesses what comes next
(multi-token prediction, mtp.py) stays behind the last layer, where it can be run, with the embeddings that it is fed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dsdnode.engine.gguf_arch import ATTENDING, RUNNING, Architecture, check_count
from dsdnode.engine.gguf_header import ARRAY, BOOL, STRING, UINT32, Header, Tensor, Value
from dsdnode.engine.gguf_types import GGMLQuantizationType
from dsdnode.engine.gguf_writer import NewTensor
from dsdnode.errors import ModelRefused

MAX_WIDTH = 1 << 18
DUMMY_VOCAB = 8
NO_WINDOW_TOKENS = 1 << 21
LAYER_ARRAYS = (
    "attention.compress_ratios",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.indexer.types",
    "attention.recurrent_layers",
    "attention.sliding_window_pattern",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
    "xielu.alpha_n",
    "xielu.alpha_p",
    "xielu.beta",
    "xielu.eps",
)
"""Metadata that may hold one value for each layer."""
WHOLE_ARRAYS = ("rope.dimension_sections",)
BARE = "xielu."
"""Keys that begin so have no architecture's name before them."""
SHARED_TENSORS = (
    "position_embd.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
    "rope_freqs.weight",
)
END_TENSORS = ("token_embd.weight", "output.weight", "output.bias")


def layers_of(header: Header) -> int:
    """Those that make the model's text; a model may have more, which guess at what comes next and are left out."""
    name = header.text("general.architecture")
    return header.count(f"{name}.block_count") - header.count(f"{name}.nextn_predict_layers", 0)


def heads_of(header: Header, architecture: Architecture) -> int:
    """Blocks behind the layers that the last shard keeps: one, which guesses at the token after the next; or none."""
    num_heads = header.count(f"{header.text('general.architecture')}.nextn_predict_layers", 0)
    has_one = num_heads == 1 and f"blk.{layers_of(header)}.nextn.eh_proj.weight" in header.tensors
    return int(has_one and architecture.guesses)


def state_bytes_of(header: Header, architecture: Architecture) -> int:
    """What one sequence's running states take in a layer, on the average of all layers, in float32: as llama.cpp sizes
    them (llama-hparams.cpp: n_embd_r, n_embd_s)."""
    if not architecture.is_recurrent:
        return 0
    name = header.text("general.architecture")

    def count(key: str) -> int:
        return header.count(f"{name}.{key}", 0)

    inner, state, groups = count("ssm.inner_size"), count("ssm.state_size"), max(1, count("ssm.group_count"))
    heads = header.metadata.get(f"{name}.attention.head_count")
    num_heads = heads.data if heads is not None and isinstance(heads.data, int) else 1
    values = inner * state + count("kda.head_dim") ** 2 * num_heads
    wide = inner + 2 * groups * state + 3 * count("kda.head_dim") * num_heads
    before = max(0, count("ssm.conv_kernel") - 1) * wide
    before += max(0, count("shortconv.l_cache") - 1) * count("embedding_length")
    kinds = architecture.kinds(header)[: layers_of(header)]
    return 4 * (values + before) * (kinds.count(RUNNING) if kinds else 1) // max(1, len(kinds))


def boundaries_of(header: Header, architecture: Architecture) -> tuple[int, ...]:
    """Where a model may be cut, 0 and its number of layers among them."""
    num_layers = layers_of(header)
    kept_together: set[int] = set()
    if architecture.windowed and _has_window(header):
        windowed = windowed_layers(header, architecture)
        kept_together = {max(layer, 1) for layer in range(num_layers) if not windowed[layer]}
    kept_together |= _within_groups(header, architecture)
    multiple = architecture.cut_multiple
    first = -(-architecture.least_layers // multiple) * multiple
    inside = range(first, num_layers - architecture.least_layers + 1, multiple)
    return (0, *(one for one in inside if one not in kept_together), num_layers)


def _within_groups(header: Header, architecture: Architecture) -> set[int]:
    """Positions inside of the smallest runs of layers that have both kinds."""
    kinds = architecture.kinds(header)[: layers_of(header)]
    ends = [0]
    for end in range(1, len(kinds) + 1):
        if {RUNNING, ATTENDING} <= set(kinds[ends[-1] : end]):
            ends.append(end)
    ends[1:] = [*ends[1:-1], len(kinds)]  # what is left over belongs to the last one
    return set(range(len(kinds) + 1)) - set(ends)


def check_cut(header: Header, architecture: Architecture, start: int, end: int) -> None:
    """Raises ModelRefused where the layers [start, end) alone would not be exact."""
    name, allowed = header.text("general.architecture"), boundaries_of(header, architecture)
    for edge in (start, end):
        if edge not in allowed:
            before, after = max(one for one in allowed if one < edge), min(one for one in allowed if one > edge)
            raise ModelRefused(
                f"{header.name}: a {name} model cannot be cut at layer {edge}, since llama.cpp would compute its "
                f"neighbours otherwise; at {before} and at {after} it can"
            )
    if end - start < min(architecture.least_layers, layers_of(header)):
        raise ModelRefused(
            f"{header.name}: a {name} model cannot be cut into pieces of less than {architecture.least_layers} layers, "
            f"and {start}:{end} are {end - start}"
        )
    check_count(header, architecture, layers_of(header), end - start)


def _has_window(header: Header) -> bool:
    return header.count(f"{header.text('general.architecture')}.attention.sliding_window", 0) > 0


def vocab_of(header: Header) -> int:
    """Rows of the embeddings. Raises ModelRefused when the file has none (a bare tokenizer)."""
    return _embeddings(header).shape[1]


def _embeddings(header: Header) -> Tensor:
    embeddings = header.tensors.get("token_embd.weight")
    if embeddings is None or len(embeddings.shape) != 2:
        raise ModelRefused(f"{header.name}: holds no token embeddings, so it is not a language model's weights")
    width = header.count(f"{header.text('general.architecture')}.embedding_length")
    if embeddings.shape[0] != width or width > MAX_WIDTH:
        raise ModelRefused(f"{header.name}: its embeddings are {embeddings.shape[0]} wide, it says {width}")
    return embeddings


def plan_metadata(header: Header, architecture: Architecture, start: int, end: int) -> dict[str, Value]:
    """Everything llama.cpp needs of the source's metadata, that of layers cut to [start, end)."""
    name = header.text("general.architecture")
    metadata = {"general.architecture": Value(STRING, name)}
    left_out = ("nextn_predict_layers", *architecture.whole_only_keys)
    num_heads = heads_of(header, architecture) if end == layers_of(header) else 0
    for key, value in header.metadata.items():
        if key.startswith("general.") and value.type != ARRAY and key != "general.alignment":
            metadata[key] = value
        elif key.startswith((f"{name}.", BARE)):
            suffix = key.removeprefix(f"{name}.")
            if suffix in left_out or (start > 0 and suffix in architecture.first_only_keys):
                continue
            metadata[key] = _cut_value(header, architecture, key, suffix, start, end)
    for key, value in architecture.said(header).items():
        cut = replace(value, data=value.data[start:end]) if isinstance(value.data, np.ndarray) else value
        metadata.setdefault(f"{name}.{key}", cut)
    metadata[f"{name}.block_count"] = Value(UINT32, end - start + num_heads)
    if num_heads:
        _add_heads(metadata, header, name, num_heads)
    vocab = vocab_of(header) if start == 0 or end == layers_of(header) else DUMMY_VOCAB
    metadata[f"{name}.vocab_size"] = Value(UINT32, vocab)
    metadata["tokenizer.ggml.model"] = Value(STRING, "none")
    if architecture.window_period and _has_window(header):
        _set_windows(metadata, name, architecture, windowed_layers(header, architecture)[start:end])
    return metadata


def _add_heads(metadata: dict[str, Value], header: Header, name: str, num_heads: int) -> None:
    """What is said by layer is said of the blocks behind the layers, too: they attend, and else are as the last one."""
    metadata[f"{name}.nextn_predict_layers"] = Value(UINT32, num_heads)
    for suffix in LAYER_ARRAYS:
        value, whole = metadata.get(f"{name}.{suffix}"), header.metadata.get(f"{name}.{suffix}")
        if value is None or not isinstance(value.data, np.ndarray):
            continue
        behind = (
            np.repeat(value.data[-1:], num_heads) if suffix != "attention.recurrent_layers" else [False] * num_heads
        )
        if whole is not None and isinstance(whole.data, np.ndarray) and len(whole.data) > layers_of(header):
            behind = whole.data[layers_of(header) :]
        metadata[f"{name}.{suffix}"] = replace(value, data=np.append(value.data, behind).astype(value.data.dtype))


def _set_windows(metadata: dict[str, Value], name: str, architecture: Architecture, windowed: list[bool]) -> None:
    """Say of each layer whether it has the window: cuts need not fall on the period.

    llama.cpp aborts on a window that no layer has. Then the key goes, or, if the loader insists on it, all layers get
    a window wider than any context, and the rope of those that have none.
    """
    window, pattern = f"{name}.attention.sliding_window", f"{name}.attention.sliding_window_pattern"
    if not any(windowed):
        metadata.pop(pattern, None)
        if not architecture.needs_window:
            del metadata[window]
            return
        metadata[window] = Value(UINT32, NO_WINDOW_TOKENS)
        _rotate_alike(metadata, name)
        windowed = [True] * len(windowed)
    metadata[pattern] = Value(ARRAY, np.array(windowed, bool), BOOL)


def _rotate_alike(metadata: dict[str, Value], name: str) -> None:
    """All layers as those without a window, though they have one now."""
    for key in ("freq_base", "dimension_count"):
        windowed, plain = f"{name}.rope.{key}_swa", metadata.get(f"{name}.rope.{key}")
        if plain is not None and windowed in metadata:
            metadata[windowed] = plain
        else:
            metadata.pop(windowed, None)


def windowed_layers(header: Header, architecture: Architecture) -> list[bool]:
    """Which layers have a sliding window, by llama.cpp's rules (load_swa_pattern)."""
    num_layers = layers_of(header)
    key = f"{header.text('general.architecture')}.attention.sliding_window_pattern"
    given = header.metadata.get(key)
    if given is not None and isinstance(given.data, np.ndarray):
        if len(given.data) < num_layers:
            raise ModelRefused(f"{header.name}: {key} tells of {len(given.data)} layers, and there are {num_layers}")
        return [bool(one) for one in given.data][:num_layers]
    period = header.count(key, architecture.window_period)
    full = 0 if architecture.full_first else period - 1
    return [period == 0 or layer % period != full for layer in range(num_layers)]


def _cut_value(header: Header, architecture: Architecture, key: str, suffix: str, start: int, end: int) -> Value:
    value = header.metadata[key]
    if suffix == "leading_dense_block_count":
        return Value(value.type, min(max(header.count(key) - start, 0), end - start))
    if value.type != ARRAY or suffix in WHOLE_ARRAYS:
        return value
    counts = (layers_of(header), header.count(f"{header.text('general.architecture')}.block_count"))
    if suffix not in LAYER_ARRAYS or not isinstance(value.data, np.ndarray) or len(value.data) not in counts:
        raise ModelRefused(f"{header.name}: {key} is a list that we do not know how to cut")
    if suffix == "attention.head_count" and len(set(value.data.tolist())) > 1 and not architecture.heads_by_layer:
        raise ModelRefused(
            f"{header.name}: its layers have different numbers of heads, which llama.cpp takes from the first"
        )
    return replace(value, data=value.data[start:end])


def plan_tensors(header: Header, architecture: Architecture, start: int, end: int) -> list[NewTensor]:
    """The tensors of the shard of layers [start, end), copies and dummies."""
    last, width = end == layers_of(header), _embeddings(header).shape[0]
    num_heads = heads_of(header, architecture) if last else 0
    tensors = _end_tensors(header, architecture, start == 0 or num_heads > 0, last)
    left_out = architecture.full_only_tensors
    if left_out and not all(windowed_layers(header, architecture)[start:end]):
        left_out = ()
    for name, tensor in header.tensors.items():
        if name in SHARED_TENSORS:
            if name not in left_out:
                tensors.append(_copy(tensor))
        elif name.startswith(f"{architecture.output_norm}."):
            tensors.append(_copy(tensor) if last else _neutral(tensor, width))
        elif name in END_TENSORS:
            if name == "output.bias" and last:
                tensors.append(_copy(tensor))
        else:
            layer, rest = _layer(header, name)
            if start <= layer < end + num_heads:
                tensors.append(_copy(tensor, f"blk.{layer - start}.{rest}"))
    return tensors


def _end_tensors(header: Header, architecture: Architecture, first: bool, last: bool) -> list[NewTensor]:
    """The embeddings and the head, or what stands in for them."""
    embeddings = _embeddings(header)
    head = header.tensors.get("output.weight", embeddings)
    if head.shape != embeddings.shape:
        raise ModelRefused(f"{header.name}: its embeddings and its output differ in shape")
    width, vocab = embeddings.shape
    if not architecture.needs_output:
        if first:
            both = last and "output.weight" in header.tensors
            return [_copy(embeddings), *([_copy(head)] if both else [])]
        return [_copy(head, "token_embd.weight") if last else _dummy("token_embd.weight", width, DUMMY_VOCAB)]
    rows = vocab if first or last else DUMMY_VOCAB
    ends = [
        _copy(embeddings) if first else _dummy("token_embd.weight", width, rows),
        _copy(head, "output.weight") if last else _dummy("output.weight", width, rows),
    ]
    if architecture.needs_output_bias and not last:
        ends.append(NewTensor("output.bias", (rows,), GGMLQuantizationType.F32))
    return ends


def _layer(header: Header, name: str) -> tuple[int, str]:
    """blk.12.attn_q.weight -> (12, "attn_q.weight")"""
    prefix, _, rest = name.partition(".")
    number, _, rest = rest.partition(".")
    if prefix != "blk" or not number.isdecimal() or not rest:
        raise ModelRefused(f"{header.name}: has a tensor {name!r} that we do not know how to cut")
    claimed = header.count(f"{header.text('general.architecture')}.block_count")
    if int(number) >= claimed:
        raise ModelRefused(f"{header.name}: the tensor {name!r} is of a layer beyond the {claimed} it claims")
    return int(number), rest


def _copy(tensor: Tensor, name: str | None = None) -> NewTensor:
    return NewTensor(name or tensor.name, tensor.shape, tensor.type, source=tensor)


def _neutral(tensor: Tensor, width: int) -> NewTensor:
    """A norm that a shard never applies, but its loader asks for."""
    if tensor.shape != (width,):
        raise ModelRefused(f"{tensor.name} has the shape {tensor.shape}; ({width},) was due")
    ones = tensor.name.endswith(".weight")
    data = np.full(tensor.shape, 1.0 if ones else 0.0, "<f4").tobytes()
    return NewTensor(tensor.name, tensor.shape, GGMLQuantizationType.F32, data=data)


def _dummy(name: str, width: int, rows: int) -> NewTensor:
    """Zeros that are never read, of the fewest bits whose blocks fit the width."""
    kind = GGMLQuantizationType.F16
    if width % 32 == 0:
        kind = GGMLQuantizationType.Q4_0
    if width % 128 == 0:
        kind = GGMLQuantizationType.Q1_0
    return NewTensor(name, (width, rows), kind)
