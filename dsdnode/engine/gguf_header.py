"""Reads the header of a GGUF file that a stranger may have made: metadata and tensor table, never the tensors.

Every count, length and offset meets a limit before anything is allocated for it, so whatever the bytes are, the end is
a `Header` or `ModelRefused`. What nobody here needs may be as long as the file: it is passed over, not read. Layout:
ggml/docs/gguf.md; the checks are those of llama.cpp's own reader (gguf.cpp), made before llama.cpp, which answers many
malformed files by aborting its process, opens the file.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.gguf_types import GGML_QUANT_SIZES, GGMLQuantizationType
from dsdnode.errors import ModelRefused

MAX_HEADER_BYTES = 64 << 20
"""Of keys and values together: ten times the largest tokenizer we know (262,144 tokens, 515,000 merges)."""
MAX_KEYS = 4096
MAX_KEY_BYTES = (1 << 16) - 1
"""The specification's."""
MAX_LABEL_BYTES = 1 << 20
"""Of a string that decides nothing here, such as a description; a longer one is passed over."""
NEEDED = ("tokenizer.ggml.", "general.architecture", "split.", "dsdnode.", "xielu.")
"""Keys that begin so say what a model is; those under its architecture's name do, too."""
MAX_ARRAY_ELEMENTS = 1 << 21
MAX_TENSORS = 1 << 16
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSION = 1 << 40
MAX_ALIGNMENT_BYTES = 1 << 16
DEFAULT_ALIGNMENT_BYTES = 32

UINT8, BOOL, STRING, ARRAY, UINT32, INT32, FLOAT32 = 0, 7, 8, 9, 4, 5, 6
NUMBER_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's value types that are numbers, and how `struct` and numpy spell them."""

Scalar = bool | int | float | str
Elements = NDArray[np.generic] | tuple[bytes, ...]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Value:
    """A scalar of GGUF type `type`, or (`type` ARRAY) elements of `element_type`; strings in arrays stay bytes."""

    type: int
    data: Scalar | Elements
    element_type: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A row of the tensor table: `shape` in GGUF's order, fastest dimension first; `offset` from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself; `metadata` lacks lists and long strings that nobody here needs.
    The readers of single keys raise ModelRefused for a missing or mistyped one.
    """

    name: str
    metadata: dict[str, Value]
    tensors: dict[str, Tensor] = field(repr=False)
    size_bytes: int = 0
    """Of the whole file."""

    def text(self, key: str, default: str | None = None) -> str:
        return self._get(key, str, default)

    def number(self, key: str, default: float | None = None) -> float:
        return self._get(key, (int, float), default)

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 to 2^31 - 1."""
        value = self._get(key, int, default)
        if isinstance(value, bool) or not 0 <= value < 1 << 31:
            raise ModelRefused(f"{self.name}: {key} is {value}, not a count")
        return value

    def _get(self, key: str, kind: type[_T] | tuple[type[_T], ...], default: _T | None) -> _T:
        if key not in self.metadata:
            if default is None:
                raise ModelRefused(f"{self.name}: the key {key} is missing")
            return default
        data = self.metadata[key].data
        if not isinstance(data, kind):
            raise ModelRefused(f"{self.name}: {key} has the wrong type")
        return data


def read_header(path: Path) -> Header:
    """Read and check the header of the GGUF file at `path`; of the tensors only their place in the file is checked.

    Raises ModelRefused, saying what is wrong, for a file that is missing, is not GGUF, is cut short, or breaks a limit.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise _Malformed("cannot be read (not a regular file)")
        with path.open("rb") as file:
            return _Parser(file, path.name, status.st_size).header()
    except _Malformed as error:
        raise ModelRefused(f"{path}: {error}") from None
    except OSError as error:
        raise ModelRefused(f"{path}: cannot be read ({error.strerror or error})") from None


def parse_header(beginning: bytes, name: str, size_bytes: int) -> Header | None:
    """The header of a file of `size_bytes` that is elsewhere, of which this is the beginning; None: it goes on behind.

    Raises ModelRefused, as `read_header`.
    """
    try:
        return _Parser(io.BytesIO(beginning), name, size_bytes).header()
    except _Short:
        return None
    except _Malformed as error:
        raise ModelRefused(f"{name}: {error}") from None


class _Malformed(Exception):
    """What is wrong, without the file's name."""


class _Short(_Malformed):
    """There is less to read than the file's size says."""


class _Parser:
    """A cursor over a file, as far as its header turns out to go; `_room_bytes` is what may still be kept of it."""

    def __init__(self, file: BinaryIO, name: str, size_bytes: int) -> None:
        self._file = file
        self._name = name
        self._size_bytes = size_bytes
        self._position = 0
        self._room_bytes = MAX_HEADER_BYTES
        self._metadata: dict[str, Value] = {}

    def header(self) -> Header:
        num_tensors, num_keys = self._preamble()
        seen: set[str] = set()
        for _ in range(num_keys):
            key = self._identifier("a key", MAX_KEY_BYTES)
            if not key or key in seen:
                raise _Malformed(f"the key {key[:80]!r} is {'there twice' if key else 'empty'}")
            seen.add(key)
            self._value(key)
        table = [self._tensor() for _ in range(num_tensors)]
        return Header(self._name, self._metadata, self._place(table, _alignment(self._metadata)), self._size_bytes)

    def _preamble(self) -> tuple[int, int]:
        magic = self._read(4) if self._size_bytes >= 4 else bytes(self._size_bytes)
        if magic != b"GGUF":
            raise _Malformed("not a GGUF file")
        version = self._number("I")
        if version not in (2, 3):
            raise _Malformed(f"GGUF version {version & 0xFFFFFFFF} is not supported (2 and 3, little-endian, are)")
        num_tensors, num_keys = self._number("Q"), self._number("Q")
        if num_tensors > MAX_TENSORS or num_keys > MAX_KEYS:
            raise _Malformed(
                f"claims {num_tensors} tensors and {num_keys} keys; at most {MAX_TENSORS} and {MAX_KEYS} are read"
            )
        return num_tensors, num_keys

    def _value(self, key: str) -> None:
        kind = self._number("I")
        if kind == STRING:
            self._string(key)
        elif kind == ARRAY:
            self._array(key)
        elif kind in NUMBER_FORMATS:
            self._metadata[key] = Value(kind, self._scalar(NUMBER_FORMATS[kind]))
        else:
            raise _Malformed(f"{key} has the unknown value type {kind}")

    def _needed(self, key: str) -> bool:
        """Before the architecture is known, every name may be its own."""
        if key.startswith(NEEDED):
            return True
        known = self._metadata.get("general.architecture")
        if known is None:
            return not key.startswith(("general.", "tokenizer."))
        return key.startswith(f"{known.data}.")

    def _string(self, key: str) -> None:
        length = self._number("Q")
        fits = length <= MAX_LABEL_BYTES and length < self._room_bytes - MAX_HEADER_BYTES // 2
        if fits or self._needed(key):
            self._metadata[key] = Value(STRING, _decoded(self._kept(key, length)))
        else:
            self._pass_over(length)

    def _array(self, key: str) -> None:
        kind, num_elements = self._number("I"), self._number("Q")
        if kind != STRING and kind not in NUMBER_FORMATS:
            raise _Malformed(f"{key} is an array of the unknown or unsupported value type {kind}")
        needed = self._needed(key)
        most = MAX_HEADER_BYTES if kind == UINT8 else MAX_ARRAY_ELEMENTS
        if needed and num_elements > most:
            raise _Malformed(f"{key} claims {num_elements} elements; at most {most} are read")
        if kind == STRING and needed:
            strings = tuple(self._kept(key, self._number("Q"), 8) for _ in range(num_elements))
            self._metadata[key] = Value(ARRAY, strings, kind)
        elif kind == STRING:
            for _ in range(num_elements):
                self._pass_over(self._number("Q"))
        else:
            element = np.dtype(NUMBER_FORMATS[kind]).newbyteorder("<")
            if not needed:
                return self._pass_over(num_elements * element.itemsize)
            raw = self._kept(key, num_elements * element.itemsize)
            self._metadata[key] = Value(ARRAY, np.frombuffer(raw, element), kind)

    def _tensor(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int, int]:
        """(name, shape, type, offset in the data section, size in bytes)"""
        name = self._identifier("a tensor's name", MAX_TENSOR_NAME_BYTES)
        num_dimensions = self._number("I")
        if not 1 <= num_dimensions <= 4:
            raise _Malformed(f"the tensor {name!r} has {num_dimensions} dimensions; 1 to 4 are possible")
        layout = _TENSORS[num_dimensions]
        *dimensions, number, offset = layout.unpack(self._read(layout.size))
        shape = tuple(dimensions)
        if not (min(shape) >= 1 and max(shape) <= MAX_DIMENSION):
            raise _Malformed(f"the tensor {name!r} has the impossible shape {shape}")
        kind = _TYPES.get(number)
        if kind is None:
            raise _Malformed(f"the tensor {name!r} has the unknown type {number}")
        if shape[0] % GGML_QUANT_SIZES[kind][0]:
            raise _Malformed(f"the tensor {name!r} has rows of {shape[0]}, which {kind.name} blocks do not divide")
        return name, shape, kind, offset, tensor_size_bytes(shape, kind)

    def _place(
        self, table: list[tuple[str, tuple[int, ...], GGMLQuantizationType, int, int]], alignment: int
    ) -> dict[str, Tensor]:
        """Check that the tensors lie one behind the other, as llama.cpp demands, and inside the file."""
        start = padded(self._position, alignment)
        expected = 0
        tensors: dict[str, Tensor] = {}
        for name, shape, kind, offset, size_bytes in table:
            if name in tensors:
                raise _Malformed(f"the tensor {name!r} is there twice")
            if offset != expected:
                raise _Malformed(f"the tensor {name!r} begins at {offset} of the data; {expected} was due")
            if start + offset + size_bytes > self._size_bytes:
                raise _Malformed(
                    f"truncated: the tensor {name!r} ends at byte {start + offset + size_bytes}, "
                    f"the file at {self._size_bytes}"
                )
            tensors[name] = Tensor(name, shape, kind, start + offset, size_bytes)
            expected += padded(size_bytes, alignment)
        return tensors

    def _identifier(self, what: str, max_bytes: int) -> str:
        name = self._text(what, max_bytes)
        if not (name.isascii() and name.isprintable()):
            raise _Malformed(f"{what}, {name!r}, is not plain ASCII")
        return name

    def _text(self, what: str, max_bytes: int) -> str:
        length = self._number("Q")
        if length > max_bytes:
            raise _Malformed(f"{what} claims a string of {length} bytes; at most {max_bytes} are read")
        return _decoded(self._kept(what, length))

    def _number(self, code: str) -> int:
        layout = _LAYOUTS[code]
        number: int = layout.unpack(self._read(layout.size))[0]
        return number

    def _scalar(self, code: str) -> Scalar:
        layout = _LAYOUTS[code]
        value: Scalar = layout.unpack(self._read(layout.size))[0]
        return value

    def _kept(self, what: str, num_bytes: int, overhead_bytes: int = 0) -> bytes:
        """The next bytes, which are paid for from the room that is left."""
        self._room_bytes -= num_bytes + overhead_bytes
        if self._room_bytes < 0:
            raise _Malformed(f"with {what[:80]} ({num_bytes} bytes) the header is longer than {MAX_HEADER_BYTES} bytes")
        return self._read(num_bytes)

    def _read(self, num_bytes: int) -> bytes:
        self._advance(num_bytes)
        data = self._file.read(num_bytes)
        if len(data) < num_bytes:
            raise _Short("truncated while it was read")
        return data

    def _pass_over(self, num_bytes: int) -> None:
        self._advance(num_bytes)
        self._file.seek(num_bytes, os.SEEK_CUR)

    def _advance(self, num_bytes: int) -> None:
        self._position += num_bytes
        if self._position > self._size_bytes:
            raise _Malformed(f"truncated: the header goes on after the file's {self._size_bytes} bytes")


def _decoded(data: bytes) -> str:
    """surrogateescape, so that a string which is not UTF-8 is neither an error nor lost."""
    return data.decode("utf-8", "surrogateescape")


_LAYOUTS = {code: struct.Struct("<" + code) for code in NUMBER_FORMATS.values()}
_TENSORS = {count: struct.Struct(f"<{count}QIQ") for count in range(1, 5)}
"""By the number of dimensions: them, the type, the offset; read at once, as there are thousands at each start."""
_TYPES = {int(kind): kind for kind in GGMLQuantizationType}


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment")
    if value is None:
        return DEFAULT_ALIGNMENT_BYTES
    alignment = value.data
    if value.type != UINT32 or not isinstance(alignment, int) or not _is_alignment(alignment):
        raise _Malformed(f"general.alignment must be a power of two of at most {MAX_ALIGNMENT_BYTES}")
    return alignment


def _is_alignment(number: int) -> bool:
    return 0 < number <= MAX_ALIGNMENT_BYTES and number & (number - 1) == 0


def padded(size_bytes: int, alignment: int) -> int:
    return -(-size_bytes // alignment) * alignment


def tensor_size_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor of whole blocks, `shape` fastest dimension first."""
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    size_bytes: int = block_bytes
    for dimension in (shape[0] // block_elements, *shape[1:]):
        size_bytes *= dimension
    return size_bytes
