"""Alice's model comes in several files, as the large ones do: it is the same model, and whatever is wrong is named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.gguf import cut, file_sha256, read_manifest
from dsdnode.engine.gguf_header import Value, read_header
from dsdnode.engine.gguf_parts import open_model, parts_of, read_model
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.gguf_writer import NewTensor, write_gguf
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.mapped import MappedFile
from dsdnode.engine.port import Chunk
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.speculation.sampling import Sampling

from .random_models import make
from .test_mapped import later

DEMO = Path(__file__).parents[2] / "dsdnode" / "models" / "demo-draft.gguf"
UINT16, INT32 = 2, 5


def split(model: Path, folder: Path, sizes: Sequence[int], name: str = "bob") -> list[Path]:
    """As llama-gguf-split does: all metadata in the first part, and so many tensors in each."""
    header, paths, first = read_header(model), [], 0
    folder.mkdir(exist_ok=True)
    tensors = [NewTensor(one.name, one.shape, one.type, source=one) for one in header.tensors.values()]
    sizes = [*sizes, len(tensors) - sum(sizes)]
    for number, size in enumerate(sizes):
        metadata = dict(header.metadata) if number == 0 else {}
        metadata |= {"split.no": Value(UINT16, number), "split.count": Value(UINT16, len(sizes))}
        metadata["split.tensors.count"] = Value(INT32, len(tensors))
        path = folder / f"{name}-{number + 1:05d}-of-{len(sizes):05d}.gguf"
        with model.open("rb") as file:
            write_gguf(path, metadata, tensors[first : first + size], file)
        first += size
        paths.append(path)
    return paths


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path)


@pytest.fixture
def parts(model: Path, tmp_path: Path) -> list[Path]:
    return split(model, tmp_path / "parts", [0, 3, 20, 9])


@pytest.mark.parametrize("named", [0, 3])
def test_its_shards_are_those_of_the_one_file(named: int, model: Path, parts: list[Path], tmp_path: Path) -> None:
    """Whichever of its files is named."""
    for start, end in ((0, 2), (2, 5), (5, 6), (0, 6)):
        made = [tmp_path / "one.gguf", tmp_path / "parts.gguf"]
        manifests = [cut(source, start, end, out) for source, out in zip((model, parts[named]), made, strict=True)]
        one, of_parts = map(read_header, made)
        remembered = {"dsdnode.model_id"}
        assert {key: str(value) for key, value in one.metadata.items() if key not in remembered} == {
            key: str(value) for key, value in of_parts.metadata.items() if key not in remembered
        }
        assert one.tensors == of_parts.tensors
        assert made[0].stat().st_size == made[1].stat().st_size
        at = min(tensor.offset for tensor in one.tensors.values())
        assert made[0].read_bytes()[at:] == made[1].read_bytes()[at:]
        assert manifests[0].tokenizer_hash == manifests[1].tokenizer_hash


def test_llama_cpp_s_own_writer_is_understood(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "carol.gguf", "llama", split_max_tensors=2, small_first_shard=True)
    writer.add_block_count(1)
    for number in range(5):
        writer.add_tensor(f"blk.{number}.attn_norm.weight", np.full(33, number, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = tmp_path / "carol-00001-of-00004.gguf"
    header = read_model(first)
    assert header.count("llama.block_count") == 1 and not any(key.startswith("split.") for key in header.metadata)
    with open_model(first) as file:
        for number, tensor in enumerate(header.tensors.values()):
            file.seek(tensor.offset)
            assert (np.frombuffer(file.read(tensor.size_bytes), "<f4") == number).all() and tensor.type is Type.F32


def test_its_id_is_of_all_its_files_and_found_once(parts: list[Path], tmp_path: Path) -> None:
    """By what a hub says of each, anybody can tell it."""
    cache = tmp_path / "cache"
    said = [hashlib.sha256(part.read_bytes()).digest() for part in parts]
    assert {file_sha256(part, cache) for part in parts} == {hashlib.sha256(b"".join(said)).hexdigest()}
    assert len(list(cache.iterdir())) == 1
    before = file_sha256(parts[0], cache)
    with parts[2].open("ab") as file:
        file.write(b"!")
    assert file_sha256(parts[0], cache) != before


def gone(parts: list[Path]) -> None:
    parts[1].unlink()


def short(parts: list[Path]) -> None:
    os.truncate(parts[-1], parts[-1].stat().st_size - 40)


def swapped(parts: list[Path]) -> None:
    parts[1].rename(parts[1].with_suffix(".aside"))
    parts[2].rename(parts[1])
    parts[1].with_suffix(".aside").rename(parts[2])


def renamed(parts: list[Path]) -> None:
    for part in parts:
        part.rename(part.with_name(part.name.replace("of-00005", "of-00004")))


def twice(parts: list[Path]) -> None:
    header = read_header(parts[2])
    tensors = [NewTensor(one.name, one.shape, one.type, source=one) for one in read_header(parts[1]).tensors.values()]
    with parts[1].open("rb") as file:
        write_gguf(parts[2], header.metadata, tensors, file)


def fewer(parts: list[Path]) -> None:
    header = read_header(parts[4])
    tensors = [NewTensor(one.name, one.shape, one.type, source=one) for one in header.tensors.values()]
    with parts[4].with_suffix(".old").open("xb+") as file:
        file.write(parts[4].read_bytes())
        write_gguf(parts[4], header.metadata, tensors[1:], file)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (gone, r"bob-00002-of-00005.gguf: is missing; the model is in 5 files"),
        (short, r"bob-00005-of-00005.gguf: truncated"),
        (swapped, r"bob-00002-of-00005.gguf: is part 3 of 5 by what is in it, not 2 of 5"),
        (renamed, r"bob-00001-of-00004.gguf: is part 1 of 5 by what is in it, not 1 of 4"),
        (twice, r"bob-00003-of-00005.gguf: the tensor '.*' is in a part before, too"),
        (fewer, r"its 5 parts hold \d+ tensors; \d+ were due"),
    ],
)
def test_what_is_wrong_with_the_parts_is_named(
    harm: Callable[[list[Path]], None], words: str, parts: list[Path]
) -> None:
    harm(parts)
    named = next(part for part in sorted(parts[0].parent.iterdir()) if part.suffix == ".gguf")
    with pytest.raises(ModelRefused, match=words):
        read_manifest(named)


def test_a_part_by_another_name_says_what_it_wants(parts: list[Path]) -> None:
    alone = parts[2].rename(parts[2].with_name("bob.gguf"))
    with pytest.raises(ModelRefused, match=r"is part 3 of 5 .* named bob-00003-of-00005.gguf"):
        read_manifest(alone)


@pytest.mark.parametrize("numbers", ["00000-of-00002", "00003-of-00002", "00001-of-99999", "00000-of-00000"])
def test_numbers_that_cannot_be(numbers: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="cannot be"):
        parts_of(tmp_path / f"mallory-{numbers}.gguf")


def test_none_of_its_files_is_written_over(parts: list[Path]) -> None:
    with pytest.raises(BadInput, match="is the model itself"):
        cut(parts[0], 0, 1, parts[3])


@pytest.mark.parametrize("written", [0, 4])
def test_whichever_part_is_written_to_is_noticed(written: int, parts: list[Path]) -> None:
    for part in parts:
        later(part)
    mapped = MappedFile(parts[1])
    assert not mapped.written() and not mapped.replaced()
    with parts[written].open("r+b") as file:
        file.write(b"xxxx")
    assert mapped.written()
    mapped.close()


@pytest.mark.slow
async def test_a_worker_serves_the_parts_as_it_does_the_one_file(tmp_path: Path) -> None:
    options = EngineOptions(threads=1, context_tokens=256, max_sequences=2)
    chunk = Chunk(0, 0, np.arange(10, 30, dtype=np.int32), 1, Sampling(0.7, seed=3), 8)
    wanted = LlamaEngine(DEMO, options).forward([chunk])[0]
    engine = await WorkerEngine.start(split(DEMO, tmp_path, [0, 5, 5])[1], options)
    try:
        given = (await engine.forward([chunk]))[0]
        assert wanted.tokens is not None and given.tokens is not None
        assert given.tokens.tolist() == wanted.tokens.tolist()
        assert await engine.tokenize("Anna has 3 apples.")
    finally:
        await engine.close()
