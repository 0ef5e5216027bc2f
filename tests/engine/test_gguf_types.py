"""The table of GGML's types."""

from __future__ import annotations

import gguf

from dsdnode.engine.gguf_types import GGML_QUANT_SIZES, GGMLQuantizationType


def test_the_types_and_their_blocks_are_those_of_the_gguf_package() -> None:
    theirs = {kind.name: (int(kind), gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert {kind.name: (int(kind), GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType} == theirs
