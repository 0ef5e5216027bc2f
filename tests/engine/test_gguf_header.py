"""Whatever a stranger's file holds, reading its header ends in a Header or ModelRefused, soon and in little memory."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsdnode.engine import gguf_header
from dsdnode.engine.gguf import cut, read_manifest
from dsdnode.engine.gguf_header import ARRAY, STRING, read_header
from dsdnode.errors import BadInput, ModelRefused
from tests.engine.random_models import VARIANTS, write_random_model

STRING_KEY = struct.pack("<Q", 3) + b"key"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "alice.gguf"
    write_random_model(path, VARIANTS["gemma3"], 2, keys={"attention.sliding_window_pattern": [True, False]})
    return path


def test_the_header_of_a_real_file(model: Path) -> None:
    header = read_header(model)
    reader = gguf.GGUFReader(model)
    assert list(header.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        mine = header.tensors[tensor.name]
        assert (mine.offset, mine.size_bytes) == (tensor.data_offset, tensor.n_bytes)
        assert list(mine.shape) == tensor.shape.tolist() and mine.type == tensor.tensor_type
    for key, theirs in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        data = header.metadata[key].data
        assert (data.tolist() if isinstance(data, np.ndarray) else data) == theirs.contents()


def _header(num_tensors: int, num_keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + rest


def _array(kind: int, count: int, rest: bytes = b"") -> bytes:
    return _header(0, 1, STRING_KEY + struct.pack("<IIQ", ARRAY, kind, count) + rest)


def _tensor(shape: tuple[int, ...], kind: int = 0, offset: int = 0, name: bytes = b"t") -> bytes:
    head = struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return head + struct.pack("<IQ", kind, offset)


def _aligned_to(number: int) -> bytes:
    key = b"general.alignment"
    return _header(0, 1, struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, number))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a GGUF"),
        (b"GG", "not a GGUF"),
        (b"PK\x03\x04" + bytes(100), "not a GGUF"),
        (b"GGUF", "truncated"),
        (_header(0, 0, version=1), "version 1"),
        (_header(0, 0, version=0x03000000), "version 50331648"),
        (_header(0, 1), "truncated"),
        (_header(1 << 60, 0), "tensors"),
        (_header(0, 1 << 63), "keys"),
        (_header(0, 1, struct.pack("<Q", 1 << 40)), "a key claims a string"),
        (_header(0, 1, struct.pack("<Q", 0) + struct.pack("<II", 4, 1)), "empty"),
        (_header(0, 2, 2 * (STRING_KEY + struct.pack("<II", 4, 1))), "twice"),
        (_header(0, 1, STRING_KEY + struct.pack("<I", 99)), "unknown value type 99"),
        (_header(0, 1, STRING_KEY + struct.pack("<IQ", STRING, 1 << 50)), "longer than"),
        (_header(0, 1, STRING_KEY + struct.pack("<IQ", STRING, 1 << 19)), "truncated"),
        (_array(4, 1 << 62), "elements"),
        (_array(4, 1 << 20), "truncated"),
        (_array(STRING, 1 << 20), "truncated"),
        (_array(ARRAY, 1, struct.pack("<IQ", 4, 0)), "unsupported value type 9"),
        (_aligned_to(0), "alignment"),
        (_aligned_to(48), "alignment"),
        (_aligned_to(1 << 30), "alignment"),
        (_header(1, 0, struct.pack("<Q", 64) + bytes(64)), "a tensor's name"),
        (_header(1, 0, _tensor(())), "0 dimensions"),
        (_header(1, 0, _tensor((1, 1, 1, 1, 1))), "5 dimensions"),
        (_header(1, 0, _tensor((0,))), "impossible shape"),
        (_header(1, 0, _tensor((1 << 62, 1 << 62))), "impossible shape"),
        (_header(1, 0, _tensor((1 << 40,) * 4)), "truncated"),
        (_header(1, 0, _tensor((4,), kind=4)), "unknown type 4"),
        (_header(1, 0, _tensor((33,), kind=8)), "Q8_0 blocks"),
        (_header(1, 0, _tensor((4,), offset=32)), "0 was due"),
        (_header(2, 0, _tensor((8,)) + _tensor((8,), offset=0, name=b"u")) + bytes(96), "32 was due"),
        (_header(2, 0, _tensor((8,)) + _tensor((8,), offset=32)) + bytes(96), "twice"),
        (_header(1, 0, _tensor((8,))), "truncated: the tensor 't' ends"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "mallory.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelRefused, match=complaint) as caught:
        read_header(path)
    assert "mallory.gguf" in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="No such file"):
        read_header(tmp_path / "nothing.gguf")
    with pytest.raises(ModelRefused, match="cannot be read"):
        read_header(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelRefused, match="not a regular file"):
        read_header(tmp_path / "pipe.gguf")


def test_a_file_cut_short_anywhere_is_refused(model: Path, tmp_path: Path) -> None:
    data, path = model.read_bytes(), tmp_path / "cut.gguf"
    last = max(tensor.offset + tensor.size_bytes for tensor in read_header(model).tensors.values())
    for length in (*range(0, 3000, 7), last - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ModelRefused, match="truncated" if length >= 4 else "not a GGUF"):
            read_header(path)


def _large(path: Path) -> None:
    """A vocabulary of Qwen's size."""
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_token_list([f"token {number}".encode() for number in range(152_064)])
    writer.add_token_types([1] * 152_064)
    writer.add_token_merges([f"a{number} b{number}" for number in range(151_387)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


@pytest.mark.slow
def test_a_tokenizer_of_several_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "qwen.gguf"
    _large(path)
    header = read_header(path)
    assert header.metadata["tokenizer.ggml.tokens"].data[-1] == b"token 152063"
    with pytest.raises(ModelRefused, match=r"qwen2\.block_count is missing"):
        read_manifest(path)


def _string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _key(name: bytes, value: bytes) -> bytes:
    """`value`: as it stands in the file, type and all."""
    return _string(name) + value


def _strings(*strings: bytes) -> bytes:
    return struct.pack("<IIQ", ARRAY, STRING, len(strings)) + b"".join(map(_string, strings))


MEGABYTES = 3 << 20
ARCHITECTURE = _key(b"general.architecture", struct.pack("<I", STRING) + _string(b"llama"))
END = _key(b"llama.block_count", struct.pack("<II", 4, 7))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"tokenizer.huggingface.json", struct.pack("<I", STRING) + _string(b"{" * MEGABYTES)),
        (b"tokenizer.chat_template", struct.pack("<I", STRING) + _string(b"x" * MEGABYTES)),
        (b"tokenizer.chat_templates", _strings(b"a" * MEGABYTES, b"", b"b")),
        (b"general.description", struct.pack("<I", STRING) + _string(b"\xff" * MEGABYTES)),
        (b"general.tags", _strings(b"t" * MEGABYTES)),
        (b"notes.of.alice", struct.pack("<I", STRING) + _string(b"n" * MEGABYTES)),
        (b"imatrix.data", struct.pack("<IIQ", ARRAY, 6, 1 << 22) + bytes(4 << 22)),
        (b"imatrix.names", _strings(*[b""] * 2_000)),
        (b"n" * 60_000, struct.pack("<II", 4, 1)),
    ],
)
def test_what_nobody_needs_may_be_as_long_as_it_likes(
    key: bytes, value: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_header, "MAX_ARRAY_ELEMENTS", 1_000)
    path = tmp_path / "long.gguf"
    path.write_bytes(_header(0, 3, ARCHITECTURE + _key(key, value) + END))
    tracemalloc.start()
    header = read_header(path)
    most_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.count("llama.block_count") == 7
    assert most_bytes < 1 << 20


def test_gigabytes_that_nobody_needs_cost_neither_time_nor_memory(tmp_path: Path) -> None:
    """Sparse: a text of 1 TiB between two keys; of 100 GiB cut short, it is told."""
    path, text = tmp_path / "huge.gguf", struct.pack("<I", STRING) + struct.pack("<Q", 1 << 40)
    path.write_bytes(_header(0, 3, ARCHITECTURE + _key(b"tokenizer.huggingface.json", text)))
    with path.open("r+b") as file:
        file.seek(1 << 40, 2)
        file.write(END)
    assert read_header(path).count("llama.block_count") == 7
    os.truncate(path, 100 << 30)
    with pytest.raises(ModelRefused, match="truncated"):
        read_header(path)


@pytest.mark.parametrize("key", [b"tokenizer.ggml.pre", b"llama.notes", b"dsdnode.model_name", b"split.notes"])
def test_what_is_needed_is_kept_whatever_its_length(key: bytes, tmp_path: Path) -> None:
    path, text = tmp_path / "long.gguf", b"p" * MEGABYTES
    path.write_bytes(_header(0, 3, ARCHITECTURE + _key(key, struct.pack("<I", STRING) + _string(text)) + END))
    assert read_header(path).text(key.decode()) == text.decode()


def test_before_the_architecture_is_known_every_name_may_be_its_own(tmp_path: Path) -> None:
    path = tmp_path / "late.gguf"
    pattern = struct.pack("<IIQ", ARRAY, 4, 2) + struct.pack("<II", 5, 6)
    path.write_bytes(_header(0, 3, _key(b"llama.pattern", pattern) + END + ARCHITECTURE))
    assert read_header(path).metadata["llama.pattern"].data.tolist() == [5, 6]


def test_labels_never_take_the_room_of_what_is_needed(tmp_path: Path) -> None:
    """60 labels of a megabyte, then a tokenizer of 30: nothing is refused."""
    path, label = tmp_path / "labels.gguf", struct.pack("<I", STRING) + _string(b"l" * (1 << 20))
    labels = b"".join(_key(b"general.label.%d" % number, label) for number in range(60))
    tokens = _key(b"tokenizer.ggml.tokens", _strings(*[b"t" * (1 << 20)] * 30))
    path.write_bytes(_header(0, 62, ARCHITECTURE + labels + tokens))
    metadata = read_header(path).metadata
    kept = metadata["tokenizer.ggml.tokens"].data
    assert isinstance(kept, tuple) and len(kept) == 30
    assert 10 < sum(key.startswith("general.label.") for key in metadata) < 40


def test_a_header_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    """80 MiB of numbers, within the limit of each key."""
    path, array = tmp_path / "long.gguf", 8 * (1 << 21)
    path.write_bytes(_header(0, 5))
    with path.open("r+b") as file:
        for key in range(5):
            file.seek(0, 2)
            file.write(struct.pack("<Q", 1) + b"%d" % key + struct.pack("<IIQ", ARRAY, 10, 1 << 21))
            file.truncate(file.tell() + array)
    with pytest.raises(ModelRefused, match="longer than"):
        read_header(path)


def test_only_the_header_is_read(model: Path, tmp_path: Path) -> None:
    """A sparse file that claims 1 TiB of tensors costs neither time nor memory."""
    path = tmp_path / "huge.gguf"
    path.write_bytes(_header(1, 0, _tensor((1 << 20, 1 << 18))))
    with path.open("r+b") as file:
        file.truncate((1 << 40) + 4096)
    tracemalloc.start()
    assert read_header(path).tensors["t"].size_bytes == 1 << 40
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[int, bytes, int]]:
    """(where, what to put there, how many bytes it replaces), preferring numbers that parsers trip over."""
    numbers = st.sampled_from([0, 1, 2, 9, 255, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
    words = st.one_of(
        numbers.map(lambda number: struct.pack("<Q", number)),
        numbers.map(lambda number: struct.pack("<I", number & 0xFFFFFFFF)),
        st.binary(min_size=1, max_size=16),
    )
    replaced = st.integers(0, 16)
    return draw(st.lists(st.tuples(st.integers(0, 4000), words, replaced), min_size=1, max_size=4))


@pytest.mark.slow
@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=changes(), length=st.one_of(st.none(), st.integers(0, 6000)))
def test_fuzz(model: Path, tmp_path: Path, edits: list[tuple[int, bytes, int]], length: int | None) -> None:
    data = bytearray(model.read_bytes())
    for place, word, replaced in edits:
        data[place : place + replaced] = word
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(data[:length])
    tracemalloc.start()
    try:
        cut(path, 0, 1, tmp_path / "out.gguf")
    except (ModelRefused, BadInput) as refusal:
        assert str(refusal)
    finally:
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()
