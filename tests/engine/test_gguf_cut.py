"""`cut` makes shards of every layer range, byte for byte, and refuses in words what would not be exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from dsdnode.engine.gguf import cut, fits, read_manifest
from dsdnode.engine.gguf_arch import REFUSED
from dsdnode.engine.gguf_header import read_header
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.errors import BadInput, ModelRefused
from tests.engine.random_models import Variant, make, write_random_model


def metadata(path: Path) -> dict[str, Any]:
    fields = {key: value.data for key, value in read_header(path).metadata.items()}
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in fields.items()}


def blocks(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", [Type.F32, Type.Q4_K], ids=lambda kind: kind.name)
def test_blocks_are_renumbered_and_copied_byte_for_byte(kind: Type, tmp_path: Path) -> None:
    model, shard = make(tmp_path, kind=kind), tmp_path / "shard.gguf"
    cut(model, 2, 5, shard)
    source, copied = blocks(model), blocks(shard)
    for layer in range(3):
        names = [name.removeprefix(f"blk.{layer + 2}.") for name in source if name.startswith(f"blk.{layer + 2}.")]
        assert len(names) == 9
        for name in names:
            assert copied[f"blk.{layer}.{name}"] == source[f"blk.{layer + 2}.{name}"]
    assert not any(name.startswith("blk.3.") for name in copied)
    assert copied["rope_freqs.weight"] == source["rope_freqs.weight"]


@pytest.mark.parametrize("name", ["llama", "qwen2", "olmo2"], ids=["untied", "tied", "output insisted on"])
def test_the_ends(name: str, tmp_path: Path) -> None:
    model = make(tmp_path, name)
    source = blocks(model)
    shards = {}
    for start, end in ((0, 2), (2, 4), (4, 6)):
        cut(model, start, end, tmp_path / "shard.gguf")
        shards[start] = blocks(tmp_path / "shard.gguf")
    head = source.get("output.weight", source["token_embd.weight"])
    assert shards[0]["token_embd.weight"] == source["token_embd.weight"]
    assert shards[4]["output.weight" if name == "olmo2" else "token_embd.weight"] == head
    assert len(shards[2]["token_embd.weight"]) < len(head) / 4
    assert all(("output.weight" in shard) == (name == "olmo2") for shard in shards.values())
    assert shards[4]["output_norm.weight"] == source["output_norm.weight"]
    assert set(np.frombuffer(shards[2]["output_norm.weight"], np.float32)) == {1.0}


def test_the_whole_range_keeps_both_ends(tmp_path: Path) -> None:
    model = make(tmp_path)
    cut(model, 0, 6, tmp_path / "shard.gguf")
    assert blocks(tmp_path / "shard.gguf") == blocks(model)


def test_arrays_of_layers_are_sliced(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"attention.head_count_kv": [2] * 6, "feed_forward_length": [128, 128, 64, 32, 128, 128]}
    make(tmp_path, **arrays)
    cut(tmp_path / "llama.gguf", 2, 5, tmp_path / "shard.gguf")
    shard = metadata(tmp_path / "shard.gguf")
    assert shard["llama.feed_forward_length"] == [64, 32, 128]
    assert shard["llama.attention.head_count_kv"] == [2, 2, 2]
    assert shard["llama.block_count"] == 3 and shard["llama.vocab_size"] == 8
    assert shard["tokenizer.ggml.model"] == "none"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [True, False, True]),
        ({"attention.sliding_window_pattern": 3}, [True, False, True]),
        ({"attention.sliding_window_pattern": [False, True, True, True, False, False]}, [True, False, False]),
    ],
    ids=["llama.cpp's own period", "a period", "an array"],
)
def test_windows_are_said_layer_by_layer(keys: dict[str, Any], expected: list[bool], tmp_path: Path) -> None:
    layers = (4, 7) if not keys else (1, 4) if keys["attention.sliding_window_pattern"] == 3 else (3, 6)
    model = make(tmp_path, "gemma3", 8 if not keys else 6, **keys)
    cut(model, *layers, tmp_path / "shard.gguf")
    assert metadata(tmp_path / "shard.gguf")["gemma3.attention.sliding_window_pattern"] == expected


def test_the_leading_dense_layers_are_shifted(tmp_path: Path) -> None:
    model = make(tmp_path, "deepseek")
    expected = {(0, 2): 2, (1, 4): 2, (3, 6): 0}
    for (start, end), leading in expected.items():
        cut(model, start, end, tmp_path / "shard.gguf")
        assert metadata(tmp_path / "shard.gguf")["deepseek.leading_dense_block_count"] == leading


def test_only_the_first_shard_scales_embeddings(tmp_path: Path) -> None:
    model = make(tmp_path, "granite")
    for start, end in ((0, 3), (3, 6)):
        cut(model, start, end, tmp_path / "shard.gguf")
        assert ("granite.embedding_scale" in metadata(tmp_path / "shard.gguf")) == (start == 0)


def test_progress_and_one_step_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = make(tmp_path), tmp_path / "out" / "shard.gguf"
    out.parent.mkdir()
    seen: list[tuple[int, int]] = []
    cut(model, 0, 3, out, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and seen[-1][0] <= seen[-1][1]
    before = out.read_bytes()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut(model, 3, 6, out, progress=interrupt)
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [(0, 7), (3, 3), (4, 2), (-1, 3), (6, 7)])
def test_layers_that_are_not_there(start: int, end: int, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it has layers 0:6"):
        cut(make(tmp_path), start, end, tmp_path / "shard.gguf")
    assert not (tmp_path / "shard.gguf").exists()


def test_a_shard_of_a_shard(tmp_path: Path) -> None:
    cut(make(tmp_path), 0, 4, tmp_path / "shard.gguf")
    with pytest.raises(ModelRefused, match="a shard already"):
        cut(tmp_path / "shard.gguf", 0, 2, tmp_path / "smaller.gguf")


def test_a_model_is_not_overwritten_by_its_shard(tmp_path: Path) -> None:
    model = make(tmp_path)
    with pytest.raises(BadInput, match="is the model itself"):
        cut(model, 0, 2, model)


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        cut(make(tmp_path), 0, 2, tmp_path / "no" / "folder" / "shard.gguf")


@pytest.mark.parametrize("name", [*REFUSED, "brandnew"])
def test_what_would_not_be_exact_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_random_model(path, Variant(name, (2,)), 2)
    with pytest.raises(ModelRefused, match=name) as caught:
        cut(path, 0, 1, tmp_path / "shard.gguf")
    assert REFUSED.get(name, "not been proven exact") in str(caught.value)
    assert read_manifest(path).architecture == name  # whole, it may still be hosted


@pytest.mark.parametrize(
    ("name", "num_layers", "keys", "complaint"),
    [
        ("gemma3", 62, {}, "reads a gemma3 model of 62 layers otherwise"),
        ("exaone4", 64, {}, "reads a exaone4 model of 64 layers otherwise"),
        ("command-r", 64, {}, "so a shard of 3 of its 64 layers would not be exact"),
        ("gemma4", 6, {"embedding_length_per_layer_input": 16}, "inputs of each layer cannot be split exactly"),
        ("llama", 6, {"attention.head_count": [4, 4, 4, 4, 4, 2]}, "different numbers of heads"),
        ("llama", 6, {"feed_forward_length": [128] * 5}, "do not know how to cut"),
        ("cohere2", 8, {"attention.sliding_window_pattern": [True] * 3}, "tells of 3 layers, and there are 8"),
        ("granite", 6, {"deepstack_mapping": [-1] * 6}, "do not know how to cut"),
    ],
)
def test_what_a_shard_would_get_wrong(
    name: str, num_layers: int, keys: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelRefused, match=complaint):
        cut(make(tmp_path, name, num_layers, **keys), 0, 3, tmp_path / "shard.gguf")


@pytest.mark.parametrize(
    ("name", "num_layers", "layers", "complaint"),
    [
        ("smollm3", 12, (3, 8), "cannot be cut at layer 3, .* at 0 and at 4 it can"),
        ("smollm3", 12, (4, 6), "cannot be cut at layer 6, .* at 4 and at 8 it can"),
        ("cohere2", 8, (3, 8), "cannot be cut at layer 3, .* at 2 and at 4 it can"),
        ("gemma4", 8, (4, 5), "into pieces of less than 2 layers, and 4:5 are 1"),
        ("gemma4", 8, (7, 8), "cannot be cut at layer 7, .* at 6 and at 8 it can"),
        ("deepseek2 (V3)", 60, (0, 27), "reads a deepseek2 model of 27 layers otherwise"),
    ],
)
def test_layers_that_would_be_another_model_s_are_not_cut_out(
    name: str, num_layers: int, layers: tuple[int, int], complaint: str, tmp_path: Path
) -> None:
    model = make(tmp_path, name, num_layers)
    with pytest.raises(ModelRefused, match=complaint):
        cut(model, *layers, tmp_path / "shard.gguf")
    assert not fits(model)(*layers) and fits(model)(0, num_layers)


@pytest.mark.parametrize("name", ["output.scale.and.sound", "blk.6.attn_norm.weight", "blk.x.attn_norm.weight"])
def test_tensors_nobody_told_us_about(name: str, tmp_path: Path) -> None:
    model, old = make(tmp_path), b"blk.5.attn_norm.weight"
    data = model.read_bytes()
    assert data.count(old) == 1 and len(name) == len(old)
    model.write_bytes(data.replace(old, name.encode()))
    with pytest.raises(ModelRefused, match=r"do not know how to cut|beyond the 6"):
        cut(model, 0, 2, tmp_path / "shard.gguf")
