"""Which architectures can be cut into layer ranges, how each wants it, and why others cannot.

The judge is tests/engine/exactness.py: a name stands in `SUPPORTED` only if shards of random models of it, at the real
models' layer counts, gave the whole model's logits bit for bit. Everything here was read off llama.cpp's loaders
(src/models/*.cpp, as packaged in llama-cpp-python 0.3.36).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dsdnode.engine.gguf_header import ARRAY, BOOL, FLOAT32, UINT32, Header, Value
from dsdnode.errors import ModelRefused

Said = Callable[[Header], dict[str, Value]]
"""What llama.cpp takes from the number of layers where a model's metadata leave it open: keys, without the
architecture's name before them."""

FED = "embd"
"""The graph's node of what comes in, where nothing renames it."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How the shards of one architecture differ from the plain case."""

    needs_output: bool = False
    """The loader insists on `output.weight` and does not tie it to the embeddings."""
    needs_output_bias: bool = False
    """And on `output.bias`."""
    window_period: int = 0
    """Of so many layers all but the last have the sliding window, unless the file says otherwise (0: it has none,
    1: it goes by what the file says alone)."""
    full_first: bool = False
    """Of a period it is the first that has no window."""
    needs_window: bool = False
    """The loader insists on a sliding window, also where no layer of the shard has one."""
    windowed: bool = False
    """Layers without the window are computed otherwise in one more way, which a shard of such layers alone cannot say:
    each stays with a windowed neighbour."""
    cut_multiple: int = 1
    """llama.cpp goes by a layer's number within periods of so many."""
    least_layers: int = 1
    """Of a shard."""
    input_node: str = ""
    """Hidden states are written into this node of the graph, which is fed tokens: fed embeddings it would do otherwise
    ("": it would not, and is)."""
    output_node: str = "l_out-{}"
    """Of a layer, by its number."""
    output_norm: str = "output_norm"
    """What the tensors of the last norm are called."""
    first_only_keys: tuple[str, ...] = ()
    """Keys that the graph applies to whatever is fed in, embeddings or not: left out of every shard after the first."""
    whole_only_keys: tuple[str, ...] = ()
    """Of what only the whole model has, or of what text does not need."""
    heads_by_layer: bool = False
    """llama.cpp takes the number of heads of each layer, not the first one's."""
    full_only_tensors: tuple[str, ...] = ()
    """They are asked for where a layer has no window, and nowhere else."""
    special_counts: Callable[[Header], tuple[int, ...]] = lambda _: ()
    """Models of just so many layers are read otherwise than all others; of such a header."""
    said: Said = lambda _: {}
    is_recurrent: bool = False
    """Layers have a running state (hybrid.py)."""
    guesses: bool = False
    """A block behind its layers, where a model has one, guesses at the token after the next as the whole model's does
    (mtp.py)."""
    kinds: Callable[[Header], str] = lambda _: ""
    """Of its layers, where they differ: llama.cpp aborts on a shard that has not some with a state, and some with
    attention."""


PLAIN = Architecture()

NEEDS_OUTPUT = Architecture(needs_output=True)
TOKENS = Architecture(input_node=FED)


def _at(*counts: int) -> Callable[[Header], tuple[int, ...]]:
    return lambda _: counts


def _wide_heads_at(header: Header) -> tuple[int, ...]:
    """gemma3: the 27B, whose heads are not as wide as their number says, has an attention scale of its own."""
    heads = header.metadata.get("gemma3.attention.head_count")
    if heads is not None and isinstance(heads.data, int) and heads.data > 0:
        head_width = header.count("gemma3.embedding_length") // heads.data
        if header.count("gemma3.attention.key_length", head_width) == head_width:
            return ()
    return (62,)


def _lite_at(header: Header) -> tuple[int, ...]:
    """deepseek2 of so many layers is taken for a lite one, whose queries have no rank, whatever the file says."""
    if not header.count("deepseek2.attention.q_lora_rank", 0):
        return ()
    return (26, 27, 48) if header.tensors["token_embd.weight"].shape[1] == 128256 else (26, 27)


RUNNING, ATTENDING, DENSE = "ra-"
"""Kinds of layers: with a running state, with attention, with neither."""


def _by_interval(header: Header) -> str:
    name = header.text("general.architecture")
    given = header.metadata.get(f"{name}.attention.recurrent_layers")
    if given is not None and isinstance(given.data, np.ndarray):
        running = [bool(one) for one in given.data]
    else:
        interval = header.count(f"{name}.full_attention_interval", 4)
        running = [interval == 0 or (layer + 1) % interval > 0 for layer in range(header.count(f"{name}.block_count"))]
    return "".join(RUNNING if one else ATTENDING for one in running)


def _say_running(header: Header) -> dict[str, Value]:
    """By layer, since cuts need not fall on the interval."""
    running = [kind == RUNNING for kind in _by_interval(header)]
    return {"attention.recurrent_layers": Value(ARRAY, np.array(running, bool), BOOL)}


def _by_heads(header: Header) -> str:
    """Without heads of attention they have a running state, or (nemotron_h) a dense network in its place."""
    heads, dense = _by_layer(header, "attention.head_count_kv"), _by_layer(header, "feed_forward_length")
    alone = header.text("general.architecture") == "nemotron_h"
    other = [DENSE if alone and width else RUNNING for width in dense]
    return "".join(ATTENDING if count else kind for count, kind in zip(heads, other, strict=True))


def _by_layer(header: Header, key: str) -> list[int]:
    name = header.text("general.architecture")
    value, num_layers = header.metadata.get(f"{name}.{key}"), header.count(f"{name}.block_count")
    if value is not None and isinstance(value.data, np.ndarray) and len(value.data) == num_layers:
        return [int(one) for one in value.data]
    return [header.count(f"{name}.{key}", 0)] * num_layers


DELTA = Architecture(
    input_node="model.input_embed",
    is_recurrent=True,
    kinds=_by_interval,
    whole_only_keys=("full_attention_interval",),
    said=_say_running,
    guesses=True,
)
MIXED = Architecture(is_recurrent=True, kinds=_by_heads)
LFM2 = replace(MIXED, input_node="model.embed_tokens", output_norm="token_embd_norm")


def _gating(header: Header) -> dict[str, Value]:
    """It is guessed by the numbers of layers and of words; and a lite one has no rank, which all others must say."""
    softmax, sigmoid = 1, 2
    layers, vocab = header.count("deepseek2.block_count"), header.tensors["token_embd.weight"].shape[1]
    guess = sigmoid if layers in (47, 48) and vocab == 154880 else softmax
    return {"expert_gating_func": Value(UINT32, guess), "attention.q_lora_rank": Value(UINT32, 0)}


def _residual_scale(header: Header) -> dict[str, Value]:
    """In llama.cpp's precision."""
    scale = np.float32(1.4) / np.sqrt(np.float32(header.count("minicpm.block_count")))
    return {"residual_scale": Value(FLOAT32, float(scale))}


SUPPORTED = {
    "afmoe": Architecture(input_node="inp_embd_scaled", window_period=4, needs_window=True, cut_multiple=4),
    "apertus": NEEDS_OUTPUT,
    "arcee": PLAIN,
    "arctic": PLAIN,
    "bailingmoe": NEEDS_OUTPUT,
    "bailingmoe2": NEEDS_OUTPUT,
    "cohere2": Architecture(window_period=4, needs_window=True, windowed=True),
    "cohere2moe": Architecture(window_period=4, full_first=True, needs_window=True, windowed=True),
    "command-r": Architecture(special_counts=_at(64)),
    "dbrx": NEEDS_OUTPUT,
    "deci": Architecture(heads_by_layer=True),
    "deepseek": PLAIN,
    "deepseek2": Architecture(special_counts=_lite_at, said=_gating),
    "deepseek32": PLAIN,
    "dots1": NEEDS_OUTPUT,
    "ernie4_5": PLAIN,
    "ernie4_5-moe": PLAIN,
    "exaone": PLAIN,
    "exaone-moe": Architecture(needs_output=True, window_period=4, needs_window=True, windowed=True),
    "exaone4": Architecture(special_counts=_at(64)),
    "falcon": PLAIN,
    "falcon-h1": Architecture(is_recurrent=True),
    "gemma": Architecture(input_node="inp_scaled"),
    "gemma2": Architecture(input_node="inp_scaled", window_period=2, needs_window=True, special_counts=_at(46)),
    "gemma3": Architecture(window_period=6, special_counts=_wide_heads_at),
    "gemma4": Architecture(
        input_node="inp_scaled",
        window_period=1,
        needs_window=True,
        least_layers=2,
        full_only_tensors=("rope_freqs.weight",),
    ),
    "glm-dsa": PLAIN,
    "glm4": TOKENS,
    "glm4moe": replace(TOKENS, guesses=True),
    "gpt-oss": Architecture(needs_output=True, window_period=2, needs_window=True),
    "gpt2": Architecture(input_node="inpL"),
    "granite": Architecture(first_only_keys=("embedding_scale",)),
    "granitehybrid": replace(MIXED, first_only_keys=("embedding_scale",)),
    "granitemoe": Architecture(first_only_keys=("embedding_scale",)),
    "grok": TOKENS,
    "grovemoe": PLAIN,
    "hunyuan-dense": PLAIN,
    "hunyuan-moe": PLAIN,
    "hy_v3": PLAIN,
    "internlm2": NEEDS_OUTPUT,
    "jamba": MIXED,
    "kimi-linear": replace(MIXED, needs_output=True, input_node="model.embed_tokens"),
    "laguna": Architecture(window_period=4, full_first=True, needs_window=True),
    "lfm2": LFM2,
    "lfm2moe": LFM2,
    "llama": PLAIN,
    "llama4": Architecture(window_period=4, needs_window=True, cut_multiple=4, least_layers=4),
    "mamba2": Architecture(is_recurrent=True),
    "mimo2": Architecture(needs_output=True, window_period=1, needs_window=True, heads_by_layer=True),
    "minicpm": Architecture(input_node=FED, said=_residual_scale),
    "minimax-m2": NEEDS_OUTPUT,
    "mistral3": PLAIN,
    "mistral4": PLAIN,
    "nemotron": NEEDS_OUTPUT,
    "nemotron_h": replace(MIXED, output_node="nemotron_h_block_out-{}"),
    "olmo": PLAIN,
    "olmo2": Architecture(needs_output=True, window_period=4),
    "olmoe": NEEDS_OUTPUT,
    "orion": NEEDS_OUTPUT,
    "phi2": Architecture(needs_output=True, needs_output_bias=True),
    "phi3": PLAIN,
    "phimoe": Architecture(needs_output=True, needs_output_bias=True),
    "plamo": NEEDS_OUTPUT,
    "plamo3": Architecture(window_period=8),
    "qwen2": PLAIN,
    "qwen2moe": NEEDS_OUTPUT,
    "qwen2vl": TOKENS,
    "qwen3": PLAIN,
    "qwen35": DELTA,
    "qwen35moe": DELTA,
    "qwen3moe": PLAIN,
    "qwen3next": replace(DELTA, input_node="model.embed_tokens", guesses=False),
    "qwen3vl": Architecture(input_node=FED, whole_only_keys=("n_deepstack_layers",)),
    "qwen3vlmoe": Architecture(input_node=FED, whole_only_keys=("n_deepstack_layers",)),
    "seed_oss": PLAIN,
    "smallthinker": Architecture(window_period=4, full_first=True, needs_window=True, cut_multiple=4, least_layers=8),
    "smollm3": Architecture(cut_multiple=4),
    "stablelm": NEEDS_OUTPUT,
    "starcoder": Architecture(input_node="inpL"),
    "starcoder2": PLAIN,
    "step35": Architecture(
        needs_output=True,
        window_period=1,
        needs_window=True,
        windowed=True,
        heads_by_layer=True,
        input_node="attn_norm_in-0",
        output_node="h_nextn",
    ),
}

_COUNTED = "llama.cpp derives parts of each layer from the number of layers, and a shard has fewer"
_MORE = "its layers take more from outside than one hidden state for each position"
_RECURRENT = "its layers keep a running state that cannot be rolled back"

REFUSED = {
    "baichuan": _COUNTED,
    "gemma3n": _MORE,
    "mamba": _RECURRENT,
    "minicpm3": _COUNTED,
    "rwkv6": _RECURRENT,
    "rwkv7": _RECURRENT,
}


def supported(header: Header) -> Architecture:
    """The way to cut this model. Raises ModelRefused, by the architecture's name, where a shard would not be exact."""
    name = header.text("general.architecture")
    if name in REFUSED:
        raise ModelRefused(f"{header.name}: {name} models cannot be split exactly: {REFUSED[name]}")
    if header.count(f"{name}.embedding_length_per_layer_input", 0):
        raise ModelRefused(f"{header.name}: {name} models with inputs of each layer cannot be split exactly: {_MORE}")
    if name not in SUPPORTED:
        names = ", ".join(sorted(SUPPORTED))
        raise ModelRefused(f"{header.name}: splitting {name} models has not been proven exact; these are: {names}")
    return SUPPORTED[name]


def check_count(header: Header, architecture: Architecture, num_layers: int, num_held: int) -> None:
    """Raises ModelRefused where llama.cpp would compute `num_held` layers otherwise than all `num_layers`."""
    special = architecture.special_counts(header)
    if (num_layers in special) != (num_held in special):
        count = num_layers if num_layers in special else num_held
        raise ModelRefused(
            f"{header.name}: llama.cpp reads a {header.text('general.architecture')} model of {count} layers otherwise "
            f"than one of any other number, so a shard of {num_held} of its {num_layers} layers would not be exact"
        )
