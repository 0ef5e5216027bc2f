"""Padded models are larger and say the same."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsdnode.engine.gguf import cut, read_manifest
from dsdnode.engine.gguf_header import read_header
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.port import Chunk
from dsdnode.speculation.sampling import Sampling
from tests.engine.random_models import make

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "dsdnode" / "models" / "demo-target.gguf"


SCRIPT = ROOT / "scripts" / "pad_model.py"


def pad(source: Path, target: Path, *words: str) -> tuple[int, str]:
    """The script's exit code and what it says, of its `main` in this process."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stderr(said):
        patched.setattr(sys, "argv", [str(SCRIPT), str(source), str(target), *words])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


def greedy(path: Path, prompt: list[int], num_tokens: int) -> list[int]:
    engine = LlamaEngine(path, EngineOptions(1, 256, 1))
    [output] = engine.forward([Chunk(0, 0, np.array(prompt, np.int32), 1, Sampling(), extend=num_tokens - 1)])
    assert output.tokens is not None
    engine.close()
    return [int(token) for token in output.tokens]


@pytest.mark.parametrize(
    "words", [("--layers", "12"), ("--ffn-width", "1024"), ("--layers", "11", "--ffn-width", "640")]
)
def test_a_padded_demo_target_says_the_same(words: tuple[str, ...], tmp_path: Path) -> None:
    assert pad(DEMO, tmp_path / "padded.gguf", *words) == (0, "")
    prompt = [1, 300, 417, 12, 99, 4, 2]
    assert greedy(tmp_path / "padded.gguf", prompt, 48) == greedy(DEMO, prompt, 48)
    header, source = read_header(tmp_path / "padded.gguf"), read_header(DEMO)
    options = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert header.count("llama.block_count") == options.get("--layers", 8)
    assert header.tensors["blk.0.ffn_up.weight"].shape == (160, options.get("--ffn-width", 448))
    assert sum(one.size_bytes for one in header.tensors.values()) > sum(t.size_bytes for t in source.tensors.values())


@pytest.mark.parametrize("name", ["qwen2", "gemma3", "olmo2", "starcoder2"])
def test_other_layers_are_silent_too(name: str, tmp_path: Path) -> None:
    """Biases, norms behind the feed-forward, no gate."""
    model = make(tmp_path, name, kind=Type.F32)
    assert pad(model, tmp_path / "padded.gguf", "--layers", "9", "--ffn-width", "256") == (0, "")
    assert greedy(tmp_path / "padded.gguf", [1, 5, 9], 24) == greedy(model, [1, 5, 9], 24)


def test_it_is_an_ordinary_model(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(DEMO), str(tmp_path / "padded.gguf"), "--layers", "10"]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
    cut(tmp_path / "padded.gguf", 7, 10, tmp_path / "shard.gguf")
    shard = read_manifest(tmp_path / "shard.gguf")
    assert (shard.start, shard.end, shard.num_layers) == (7, 10, 10)
    assert shard.tokenizer_hash == read_manifest(DEMO).tokenizer_hash


def test_what_cannot_be_padded_is_refused_in_words(tmp_path: Path) -> None:
    for words, why in (
        (("--layers", "3"), "has 8 layers"),
        (("--ffn-width", "460"), "a multiple of 32"),
        (("--layers", "600"), "512 at most"),
    ):
        code, said = pad(DEMO, tmp_path / "padded.gguf", *words)
        assert code == 2 and why in said
    code, said = pad(make(tmp_path, "phi3"), tmp_path / "padded.gguf", "--ffn-width", "512")
    assert code == 2 and "--layers alone" in said
    assert not (tmp_path / "padded.gguf").exists()
