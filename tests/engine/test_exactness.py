"""Shards give the whole model's logits, bit for bit. A sample; `python -m tests.engine.exactness_matrix` runs all."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf.constants import GGMLQuantizationType as Type

from dsdnode.engine.gguf import cut
from dsdnode.engine.gguf_arch import SUPPORTED
from dsdnode.engine.llama import LlamaEngine
from tests.engine.exactness import OPTIONS, Pair, max_difference, ranges, story
from tests.engine.random_models import VARIANTS, write_random_model


def test_every_supported_architecture_has_a_random_model() -> None:
    assert {variant.architecture for variant in VARIANTS.values()} == set(SUPPORTED)


@pytest.mark.parametrize("name", VARIANTS)
def test_one_layer_each(name: str, tmp_path: Path) -> None:
    """9 layers: more than any sliding-window period, not a multiple of one."""
    model = tmp_path / "model.gguf"
    write_random_model(model, VARIANTS[name], 9)
    assert max_difference(model, 9, 9, tmp_path) == 0.0


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0, Type.Q4_K], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["llama (mixture of experts)", "gemma3", "granite", "olmo2", "gpt-oss"])
def test_quantised(name: str, kind: Type, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    write_random_model(model, VARIANTS[name], 7, kind)
    assert max_difference(model, 7, 3, tmp_path) == 0.0


@pytest.mark.parametrize("name", VARIANTS)
def test_as_many_layers_as_the_real_model(name: str, tmp_path: Path) -> None:
    model, num_layers = tmp_path / "model.gguf", VARIANTS[name].num_layers[-1]
    write_random_model(model, VARIANTS[name], num_layers, Type.Q8_0)
    assert max_difference(model, num_layers, 2, tmp_path) == 0.0


def test_a_whole_range_is_the_whole_model(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    write_random_model(model, VARIANTS["llama"], 3)
    assert max_difference(model, 3, 1, tmp_path) == 0.0


def test_shards_in_the_wrong_order_are_seen(tmp_path: Path) -> None:
    """Mallory serves layers 2:3 as if they were 1:2; the comparison notices."""
    model = tmp_path / "model.gguf"
    write_random_model(model, VARIANTS["qwen2"], 4)
    paths = []
    for start, end in ranges(4, 4):
        paths.append(tmp_path / f"{start}.gguf")
        cut(model, start, end, paths[-1])
    engines = [LlamaEngine(path, OPTIONS) for path in (model, paths[0], paths[2], paths[1], paths[3])]
    pair = Pair(engines[0], engines[1:])
    story(pair)
    for engine in engines:
        engine.close()
    assert pair.max_difference > 0.1
