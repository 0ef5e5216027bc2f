"""GGML's types of numbers and the sizes of their blocks: those of the `gguf` package, which a test compares.

A table of its own, because importing the package takes each process longer than all that it does with it.
"""

from __future__ import annotations

from enum import IntEnum


class GGMLQuantizationType(IntEnum):
    """As numbered in GGUF's tensor table."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41


_Type = GGMLQuantizationType
GGML_QUANT_SIZES: dict[GGMLQuantizationType, tuple[int, int]] = {
    _Type.F32: (1, 4),
    _Type.F16: (1, 2),
    _Type.Q4_0: (32, 18),
    _Type.Q4_1: (32, 20),
    _Type.Q5_0: (32, 22),
    _Type.Q5_1: (32, 24),
    _Type.Q8_0: (32, 34),
    _Type.Q8_1: (32, 40),
    _Type.Q2_K: (256, 84),
    _Type.Q3_K: (256, 110),
    _Type.Q4_K: (256, 144),
    _Type.Q5_K: (256, 176),
    _Type.Q6_K: (256, 210),
    _Type.Q8_K: (256, 292),
    _Type.IQ2_XXS: (256, 66),
    _Type.IQ2_XS: (256, 74),
    _Type.IQ3_XXS: (256, 98),
    _Type.IQ1_S: (256, 50),
    _Type.IQ4_NL: (32, 18),
    _Type.IQ3_S: (256, 110),
    _Type.IQ2_S: (256, 82),
    _Type.IQ4_XS: (256, 136),
    _Type.I8: (1, 1),
    _Type.I16: (1, 2),
    _Type.I32: (1, 4),
    _Type.I64: (1, 8),
    _Type.F64: (1, 8),
    _Type.IQ1_M: (256, 56),
    _Type.BF16: (1, 2),
    _Type.TQ1_0: (256, 54),
    _Type.TQ2_0: (256, 66),
    _Type.MXFP4: (32, 17),
    _Type.NVFP4: (64, 36),
    _Type.Q1_0: (128, 18),
}
"""Of each type: the elements of a block, and its bytes."""
