"""A draft model that is always wrong: `python -m tests.bench.wrong_draft OUT` writes one, for `dsdnode bench -md OUT`.

The demo's draft model with the weights of its last norm negated, so that it says what it holds to be least likely. It
has the right tokenizer and takes the usual time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dsdnode.engine.gguf_header import read_header
from dsdnode.models import demo_draft

LAST_NORM = "output_norm.weight"


def write_wrong_draft(path: Path) -> None:
    content = bytearray(demo_draft().read_bytes())
    norm = read_header(demo_draft()).tensors[LAST_NORM]
    weights = np.frombuffer(content, np.float32, norm.size_bytes // 4, norm.offset)
    np.negative(weights, out=weights)
    path.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    write_wrong_draft(parser.parse_args().out)


if __name__ == "__main__":
    main()
