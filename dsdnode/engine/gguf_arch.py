"""Which architectures can be cut into layer ranges, how each wants it, and why others cannot.

The judge is tests/engine/exactness.py: a name stands in `SUPPORTED` only if shards of random models of it, at the real
models' layer counts, gave the whole model's logits bit for bit. Everything here was read off llama.cpp's loaders
(src/models/*.cpp, as packaged in llama-cpp-python 0.3.36).
"""

from __future__ import annotations

from dataclasses import dataclass

from dsdnode.engine.gguf_header import Header
from dsdnode.errors import ModelRefused


@dataclass(frozen=True, slots=True)
class Architecture:
    """How the shards of one architecture differ from the plain case."""

    needs_output: bool = False
    """The loader insists on `output.weight` and does not tie it to the embeddings."""
    window_period: int = 0
    """Of so many layers all but the last have the sliding window, unless the file says otherwise (0: it has none)."""
    needs_window: bool = False
    """The loader insists on a sliding window, also where no layer of the shard has one."""
    first_only_keys: tuple[str, ...] = ()
    """Keys that the graph applies to whatever is fed in, embeddings or not: left out of every shard after the first."""
    wide_head_layers: int = 0
    """A model of just this many layers gets an attention scale of its own (gemma3: the 27B)."""


PLAIN = Architecture()

SUPPORTED = {
    "arcee": PLAIN,
    "deepseek": PLAIN,
    "ernie4_5": PLAIN,
    "exaone": PLAIN,
    "gemma3": Architecture(window_period=6, wide_head_layers=62),
    "gpt-oss": Architecture(needs_output=True, window_period=2, needs_window=True),
    "granite": Architecture(first_only_keys=("embedding_scale",)),
    "granitemoe": Architecture(first_only_keys=("embedding_scale",)),
    "internlm2": Architecture(needs_output=True),
    "llama": PLAIN,
    "mistral3": PLAIN,
    "olmo2": Architecture(needs_output=True, window_period=4),
    "olmoe": Architecture(needs_output=True),
    "phi3": PLAIN,
    "qwen2": PLAIN,
    "qwen2moe": Architecture(needs_output=True),
    "qwen3": PLAIN,
    "qwen3moe": PLAIN,
    "seed_oss": PLAIN,
    "starcoder2": PLAIN,
}

_SCALED = "llama.cpp scales what a model is fed as if it were embeddings, also when it is hidden states"
_COUNTED = "llama.cpp derives parts of each layer from the number of layers, and a shard has fewer"
_NUMBERED = "llama.cpp decides by a layer's number which layers rotate positions, and a shard's layers are renumbered"
_TOKENS = "llama.cpp aborts when it is fed hidden states in place of tokens"
_MORE = "its layers take more from outside than one hidden state for each position"
_RECURRENT = "its layers keep a running state that cannot be rolled back"

REFUSED = {
    "afmoe": _SCALED,
    "baichuan": _COUNTED,
    "command-r": _COUNTED,
    "deepseek2": _COUNTED,
    "exaone4": _COUNTED,
    "falcon-h1": _RECURRENT,
    "gemma": _SCALED,
    "gemma2": _SCALED,
    "gemma3n": _MORE,
    "gemma4": _MORE,
    "glm4": _TOKENS,
    "glm4moe": _TOKENS,
    "granitehybrid": _RECURRENT,
    "jamba": _RECURRENT,
    "lfm2": _RECURRENT,
    "lfm2moe": _RECURRENT,
    "llama4": _NUMBERED,
    "mamba": _RECURRENT,
    "mamba2": _RECURRENT,
    "minicpm": _COUNTED,
    "nemotron_h": _RECURRENT,
    "qwen35": _RECURRENT,
    "qwen35moe": _RECURRENT,
    "qwen3next": _RECURRENT,
    "rwkv6": _RECURRENT,
    "rwkv7": _RECURRENT,
    "smollm3": _NUMBERED,
}


def supported(header: Header) -> Architecture:
    """The way to cut this model. Raises ModelRefused, by the architecture's name, where a shard would not be exact."""
    name = header.text("general.architecture")
    if name in REFUSED:
        raise ModelRefused(f"{header.name}: {name} models cannot be split exactly: {REFUSED[name]}")
    if name not in SUPPORTED:
        names = ", ".join(sorted(SUPPORTED))
        raise ModelRefused(f"{header.name}: splitting {name} models has not been proven exact; these are: {names}")
    return SUPPORTED[name]


def check_count(header: Header, architecture: Architecture, num_layers: int, num_held: int) -> None:
    """Raises ModelRefused where llama.cpp would compute `num_held` layers otherwise than all `num_layers`."""
    special = architecture.wide_head_layers
    if (num_layers == special) == (num_held == special):
        return
    name = header.text("general.architecture")
    heads = header.metadata.get(f"{name}.attention.head_count")
    if heads is not None and isinstance(heads.data, int) and heads.data > 0:
        head_width = header.count(f"{name}.embedding_length") // heads.data
        if header.count(f"{name}.attention.key_length", head_width) == head_width:
            return
    raise ModelRefused(
        f"{header.name}: {name} of {special} layers scales attention otherwise than of any other number, "
        f"so a shard of {num_held} of its {num_layers} layers would not be exact"
    )
