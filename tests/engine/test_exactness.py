"""Shards give the whole model's logits, bit for bit. A sample; `python -m tests.engine.exactness_matrix` runs all."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsdnode.engine.gguf import cut
from dsdnode.engine.gguf_arch import SUPPORTED
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.llama import LlamaEngine
from tests.engine.exactness import OPTIONS, Pair, max_difference, ranges, story
from tests.engine.loader_variants import LOADER_VARIANTS
from tests.engine.random_models import VARIANTS, make

pytestmark = pytest.mark.slow
LITE = {"deepseek2 (V2 Lite)": 27}
"""It is one by just this number of layers."""


def test_every_supported_architecture_has_a_random_model() -> None:
    assert {variant.architecture for variant in VARIANTS.values()} == set(SUPPORTED)


@pytest.mark.parametrize("name", VARIANTS)
def test_as_many_shards_as_there_can_be(name: str, tmp_path: Path) -> None:
    """9 layers: more than any sliding-window period but one, not a multiple of one."""
    num_layers = LITE.get(name, 9)
    assert max_difference(make(tmp_path, name, num_layers), num_layers, tmp_path, num_layers) == 0.0


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0, Type.Q4_K], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["llama (mixture of experts)", "gemma3", "granite", "olmo2", "gpt-oss"])
def test_quantised(name: str, kind: Type, tmp_path: Path) -> None:
    assert max_difference(make(tmp_path, name, 7, kind), 7, tmp_path, 3) == 0.0


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in LOADER_VARIANTS])
def test_as_many_layers_as_the_real_model(name: str, tmp_path: Path) -> None:
    num_layers = VARIANTS[name].num_layers[-1]
    assert max_difference(make(tmp_path, name, num_layers, Type.Q8_0), num_layers, tmp_path, 2) == 0.0


def test_a_whole_range_is_the_whole_model(tmp_path: Path) -> None:
    assert max_difference(make(tmp_path, "llama", 3), 3, tmp_path, 1) == 0.0


def test_the_refusal_of_the_27b_gemma3_is_warranted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """62 layers have an attention scale of their own (gguf_arch.py); its shards would not have it."""
    monkeypatch.setattr("dsdnode.engine.gguf_cut.check_count", lambda *_: None)
    assert max_difference(make(tmp_path, "gemma3", 62), 62, tmp_path, 2) > 0.1


def test_shards_in_the_wrong_order_are_seen(tmp_path: Path) -> None:
    """Mallory serves layers 2:3 as if they were 1:2; the comparison notices."""
    model = make(tmp_path, "qwen2", 4)
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
