"""Which real tokenizers fit each other, and how large their text files are:

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36   # its vendor/llama.cpp/models/ggml-vocab-*.gguf
    python -m tests.engine.real_pairs vendor/llama.cpp/models

Exit code 1 where a pair is taken, or refused, that should not be.
"""

from __future__ import annotations

import sys
import zlib
from itertools import combinations
from pathlib import Path

from dsdnode.engine.gguf_header import Header, read_header
from dsdnode.engine.gguf_text import text_file
from dsdnode.engine.pairs import fit

FITTING = {("llama-spm", "phi-3")}
"""Phi 3 has Llama 2's tokenizer, and 64 tokens more; all others split or merge texts in ways of their own."""


def main() -> int:
    headers: dict[str, Header] = {}
    for path in sorted(Path(sys.argv[1]).glob("ggml-vocab-*.gguf")):
        headers[path.stem.removeprefix("ggml-vocab-")] = read_header(path)
    for name, header in headers.items():
        text = text_file(header)
        assert text_file(header) == text and not fit(header, header).reason
        print(f"{name}: a text file of {len(text) / 1e6:.1f} MB, {len(zlib.compress(text)) / 1e6:.1f} MB on the way")
    found = set()
    for one, other in combinations(headers, 2):
        fits = fit(headers[one], headers[other])
        if not fits.reason:
            found.add((one, other))
        if not fits.reason or headers[one].text("tokenizer.ggml.model") == headers[other].text("tokenizer.ggml.model"):
            told = fits.reason or f"fit; {len(fits.foreign)} ids differ: {fits.told}"
            print(f"{one} and {other}: {told[:160]}")
    return int(found != FITTING or not headers)


if __name__ == "__main__":
    raise SystemExit(main())
