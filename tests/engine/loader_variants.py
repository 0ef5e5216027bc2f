"""What llama.cpp is to be told of random models of its architectures: the keys of real files, in small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Keys = dict[str, Any]


@dataclass(frozen=True)
class LoaderVariant:
    architecture: str
    num_layers: tuple[int, ...]
    """Of the real models."""
    keys: Callable[[int], Keys] = lambda _: {}
    """Metadata, under the architecture's name, of a model of so many layers."""
    tied: bool = False


def by_layer(num_layers: int, **lists: Callable[[int], Any]) -> Keys:
    return {key.replace("__", "."): [value(layer) for layer in range(num_layers)] for key, value in lists.items()}


_EXPERTS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 64}
_WIDE = {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32}
_WINDOW = {"attention.sliding_window": 16}
_ALL_HEADS = {"attention.head_count_kv": 4}
_SHARED = {"expert_shared_feed_forward_length": 64}
_SHARED_COUNT = {"expert_shared_count": 1}
_SIGMOID = {"expert_gating_func": 2}
_LEAD = {"leading_dense_block_count": 1}
_LATENT = {
    "attention.kv_lora_rank": 32,
    "attention.key_length": 48,
    "attention.value_length": 32,
    "attention.key_length_mla": 32,
    "attention.value_length_mla": 16,
    "rope.dimension_count": 16,
    "attention.head_count_kv": 1,
}
_RANK = {"attention.q_lora_rank": 32}
_YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 40.0,
    "rope.scaling.original_context_length": 64,
    "rope.scaling.yarn_log_multiplier": 0.1,
}
_INDEXER = {"attention.indexer.head_count": 4, "attention.indexer.key_length": 64, "attention.indexer.top_k": 16}
_SECTIONS = {"rope.dimension_sections": [8, 4, 4, 0]}
_GEMMA_4 = _WIDE | _WINDOW | {
    "embedding_length_per_layer_input": 0,
    "attention.key_length_swa": 16,
    "attention.value_length_swa": 16,
    "rope.dimension_count_swa": 16,
    "final_logit_softcapping": 30.0,
    "rope.freq_base_swa": 1e4,
    "rope.freq_base": 1e6,
}  # fmt: skip
_FAR_AND_NEAR = {"rope.freq_base_swa": 1e4, "rope.freq_base": 5e6}


def _deepseek(lead: int, **more: Any) -> Callable[[int], Keys]:
    keys = {"expert_weights_scale": 2.5, "expert_weights_norm": True, "leading_dense_block_count": lead}
    return lambda _: _EXPERTS | _SHARED_COUNT | _LATENT | keys | more


def _every(period: int, full: int) -> Callable[[int], bool]:
    return lambda layer: layer % period != full


_SSM = {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 32, "ssm.time_step_rank": 4}
_DELTA = _SSM | {"ssm.group_count": 2, "rope.dimension_sections": [4, 2, 2, 0], "full_attention_interval": 4}
_HEADS_16 = {"attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 16}
_HEADS_32 = {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 16}


def _some_heads(period: int, attending: int) -> Callable[[int], Keys]:
    return lambda n: by_layer(n, attention__head_count_kv=lambda layer: 2 if layer % period == attending else 0)


LOADER_VARIANTS = {
    "afmoe": LoaderVariant("afmoe", (32, 56), lambda _: _EXPERTS | _SHARED_COUNT | _WINDOW | _LEAD | _WIDE),
    "apertus": LoaderVariant(
        "apertus",
        (32, 80),
        lambda n: by_layer(
            n,
            xielu__alpha_n=lambda layer: 0.5 + layer / 100,
            xielu__alpha_p=lambda layer: 0.6 + layer / 90,
            xielu__beta=lambda _: 0.5,
            xielu__eps=lambda _: -1e-6,
        ),
    ),
    "arctic": LoaderVariant("arctic", (35,), lambda _: _EXPERTS),
    "bailingmoe": LoaderVariant(
        "bailingmoe", (28,), lambda _: _EXPERTS | _SHARED_COUNT | _WIDE | {"expert_weights_norm": True}
    ),
    "bailingmoe2": LoaderVariant(
        "bailingmoe2",
        (20, 32),
        lambda _: (
            _EXPERTS | _SHARED_COUNT | _SIGMOID | _LEAD | {"expert_weights_scale": 2.5, "expert_weights_norm": True}
        ),
    ),
    "cohere2": LoaderVariant("cohere2", (32, 64), lambda _: _WINDOW | {"logit_scale": 0.25}, tied=True),
    "cohere2moe": LoaderVariant(
        "cohere2moe",
        (49,),
        lambda _: _EXPERTS | _SHARED_COUNT | _SHARED | _SIGMOID | _LEAD | _WINDOW | {"logit_scale": 0.25},
    ),
    "command-r": LoaderVariant("command-r", (32, 40), lambda _: {"logit_scale": 0.0625}, tied=True),
    "dbrx": LoaderVariant("dbrx", (40,), lambda _: _EXPERTS | {"attention.clamp_kqv": 8.0}),
    "deci": LoaderVariant(
        "deci",
        (32, 80),
        lambda n: by_layer(
            n,
            attention__head_count=lambda _: 4,
            attention__head_count_kv=lambda layer: 2 if layer % 5 else 4,
            feed_forward_length=lambda layer: 128 if layer % 3 else 64,
        ),
    ),
    "deepseek2 (V2 Lite)": LoaderVariant("deepseek2", (27,), _deepseek(1, **_YARN)),
    "deepseek2 (V2)": LoaderVariant("deepseek2", (60,), _deepseek(1, **_RANK, **_YARN)),
    "deepseek2 (V3)": LoaderVariant("deepseek2", (61,), _deepseek(3, **_RANK, **_YARN, **_SIGMOID)),
    "deepseek2 (next-token heads)": LoaderVariant(
        "deepseek2", (61,), lambda n: _deepseek(3, **_RANK, **_SIGMOID)(n) | {"nextn_predict_layers": 1}
    ),
    "deepseek32": LoaderVariant("deepseek32", (61,), _deepseek(3, **_RANK, **_SIGMOID, **_INDEXER)),
    "dots1": LoaderVariant("dots1", (62,), lambda _: _EXPERTS | _SHARED_COUNT | _SIGMOID | _LEAD | _ALL_HEADS),
    "ernie4_5-moe": LoaderVariant(
        "ernie4_5-moe",
        (28, 54),
        lambda _: _EXPERTS | _SHARED_COUNT | _SHARED | _LEAD | {"interleave_moe_layer_step": 1},
    ),
    "exaone-moe": LoaderVariant(
        "exaone-moe", (48,), lambda _: _EXPERTS | _SHARED_COUNT | _SHARED | _SIGMOID | _LEAD | _WIDE | _WINDOW
    ),
    "exaone4": LoaderVariant("exaone4", (30,)),
    "falcon": LoaderVariant("falcon", (32, 60)),
    "falcon-h1": LoaderVariant("falcon-h1", (36,), lambda _: _SSM | _WIDE | {"ssm.group_count": 1}),
    "gemma": LoaderVariant("gemma", (18, 28), lambda _: _WIDE, tied=True),
    "gemma2": LoaderVariant(
        "gemma2",
        (26, 42),
        lambda _: _WIDE | _WINDOW | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        tied=True,
    ),
    "gemma4": LoaderVariant(
        "gemma4",
        (60,),
        lambda n: (
            _GEMMA_4
            | by_layer(
                n,
                attention__sliding_window_pattern=_every(6, 5),
                attention__head_count_kv=lambda layer: 2 if layer % 6 != 5 else 1,
            )
        ),
        tied=True,
    ),
    "glm-dsa": LoaderVariant("glm-dsa", (78,), _deepseek(3, **_RANK, **_SIGMOID, **_INDEXER)),
    "glm4": LoaderVariant("glm4", (40, 61)),
    "glm4moe": LoaderVariant(
        "glm4moe", (46, 92), lambda _: _EXPERTS | _SHARED_COUNT | _WIDE | {"leading_dense_block_count": 3}
    ),
    "gpt2": LoaderVariant("gpt2", (12, 48), lambda _: _ALL_HEADS, tied=True),
    "granitehybrid": LoaderVariant(
        "granitehybrid",
        (40,),
        lambda n: (
            _EXPERTS
            | _SHARED
            | _SSM
            | {"ssm.group_count": 1, "residual_scale": 0.22, "embedding_scale": 12.0, "logit_scale": 8.0}
            | {"attention.scale": 0.0625}
            | _some_heads(10, 5)(n)
        ),
    ),
    "grok": LoaderVariant("grok", (64,), lambda _: _EXPERTS),
    "grovemoe": LoaderVariant(
        "grovemoe",
        (48,),
        lambda _: (
            _EXPERTS
            | _WIDE
            | {"expert_group_scale": 0.05, "experts_per_group": 2, "expert_chunk_feed_forward_length": 32}
        ),
    ),
    "hunyuan-dense": LoaderVariant("hunyuan-dense", (24, 32), lambda _: _WIDE),
    "hunyuan-moe": LoaderVariant("hunyuan-moe", (32,), lambda _: _EXPERTS | _SHARED | _WIDE),
    "hy_v3": LoaderVariant("hy_v3", (48,), lambda _: _EXPERTS | _SHARED | _SIGMOID | _LEAD | _WIDE),
    "jamba": LoaderVariant("jamba", (32,), lambda n: _EXPERTS | _SSM | {"ssm.state_size": 16} | _some_heads(8, 4)(n)),
    "kimi-linear": LoaderVariant(
        "kimi-linear",
        (27,),
        lambda n: (
            _LATENT
            | _EXPERTS
            | _SHARED_COUNT
            | _SIGMOID
            | _LEAD
            | {"ssm.conv_kernel": 4, "kda.head_dim": 32, "expert_weights_scale": 2.4}
            | by_layer(n, attention__head_count_kv=lambda layer: 1 if layer % 4 == 3 else 0)
        ),
    ),
    "laguna": LoaderVariant(
        "laguna", (40,), lambda _: _EXPERTS | _SHARED | _SHARED_COUNT | _SIGMOID | _WIDE | _WINDOW | _LEAD
    ),
    "lfm2": LoaderVariant("lfm2", (16, 30), lambda n: {"shortconv.l_cache": 3} | _some_heads(3, 2)(n)),
    "lfm2moe": LoaderVariant(
        "lfm2moe",
        (24,),
        lambda n: _EXPERTS | _SIGMOID | {"shortconv.l_cache": 3, "leading_dense_block_count": 2} | _some_heads(3, 2)(n),
    ),
    "llama4": LoaderVariant(
        "llama4",
        (48,),
        lambda _: _EXPERTS | _HEADS_16 | {"interleave_moe_layer_step": 2},
    ),
    "mamba2": LoaderVariant("mamba2", (24,), lambda _: _SSM | {"ssm.group_count": 1}),
    "mimo2": LoaderVariant(
        "mimo2",
        (48,),
        lambda n: (
            _EXPERTS
            | _SIGMOID
            | _WIDE
            | _WINDOW
            | _FAR_AND_NEAR
            | _LEAD
            | {"attention.value_length": 16}
            | by_layer(
                n,
                attention__sliding_window_pattern=_every(6, 0),
                attention__head_count_kv=lambda layer: 2 if layer % 6 else 1,
            )
        ),
    ),
    "minicpm": LoaderVariant("minicpm", (40, 52), tied=True),
    "minimax-m2": LoaderVariant(
        "minimax-m2", (62,), lambda _: _EXPERTS | _SIGMOID | _WIDE | {"rope.dimension_count": 16}
    ),
    "mistral4": LoaderVariant(
        "mistral4",
        (36,),
        lambda _: (
            _LATENT
            | _RANK
            | _EXPERTS
            | _SHARED_COUNT
            | {"expert_gating_func": 1, "attention.temperature_scale": 0.1, "attention.temperature_length": 8}
        ),
    ),
    "nemotron": LoaderVariant("nemotron", (32,)),
    "nemotron_h": LoaderVariant(
        "nemotron_h",
        (52,),
        lambda n: (
            _SSM
            | _WIDE
            | {"ssm.group_count": 2}
            | _some_heads(14, 4)(n)
            | by_layer(n, feed_forward_length=lambda layer: 128 if layer % 2 else 0)
        ),
    ),
    "olmo": LoaderVariant("olmo", (22, 32, 80), lambda _: _ALL_HEADS | {"attention.clamp_kqv": 8.0}),
    "orion": LoaderVariant("orion", (40,)),
    "phi2": LoaderVariant("phi2", (24, 32), lambda _: _ALL_HEADS),
    "phimoe": LoaderVariant("phimoe", (32,), lambda _: _EXPERTS | {"rope.scaling.original_context_length": 2048}),
    "plamo": LoaderVariant("plamo", (40,)),
    "plamo3": LoaderVariant("plamo3", (24,), lambda _: _WIDE | _WINDOW),
    "qwen2vl": LoaderVariant("qwen2vl", (28,), lambda _: {"rope.dimension_sections": [4, 2, 2, 0]}),
    "qwen3vl": LoaderVariant("qwen3vl", (28, 36, 64), lambda _: _WIDE | _SECTIONS | {"n_deepstack_layers": 3}),
    "qwen3vlmoe": LoaderVariant(
        "qwen3vlmoe", (48,), lambda _: _EXPERTS | _WIDE | _SECTIONS | {"n_deepstack_layers": 3}
    ),
    "qwen35": LoaderVariant("qwen35", (24, 32, 64), lambda _: _DELTA | _HEADS_32),
    "qwen35moe": LoaderVariant("qwen35moe", (40, 48, 60), lambda _: _DELTA | _HEADS_32 | _EXPERTS | _SHARED),
    "qwen3next": LoaderVariant("qwen3next", (48,), lambda _: _DELTA | _HEADS_32 | _EXPERTS | _SHARED),
    "smallthinker": LoaderVariant("smallthinker", (32, 52), lambda _: _EXPERTS | _SIGMOID | _WIDE | _WINDOW),
    "smollm3": LoaderVariant("smollm3", (36,), tied=True),
    "stablelm": LoaderVariant("stablelm", (24, 32, 40), lambda _: {"use_parallel_residual": False}),
    "starcoder": LoaderVariant("starcoder", (24, 40), lambda _: {"attention.head_count_kv": 1}),
    "step35": LoaderVariant(
        "step35",
        (45,),
        lambda n: (
            _EXPERTS
            | _SHARED
            | _SIGMOID
            | _WIDE
            | _WINDOW
            | _FAR_AND_NEAR
            | _SHARED_COUNT
            | {"leading_dense_block_count": 3}
            | by_layer(
                n,
                attention__sliding_window_pattern=_every(4, 0),
                attention__head_count=lambda layer: 8 if layer % 4 else 4,
                swiglu_clamp_exp=lambda layer: 0.0 if layer < 40 else 7.0,
                swiglu_clamp_shexp=lambda layer: 0.0 if layer < 40 else 16.0,
            )
        ),
    ),
}
