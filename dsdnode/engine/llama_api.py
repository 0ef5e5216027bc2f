"""llama.cpp's C API: llama_cpp itself, loaded in the right environment, and the few calls that it does not bind.

Nothing else imports llama_cpp. Import only in a worker process or a test of it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort would otherwise fork a debugger
# Threads that spin at every barrier, on cores that others use too, took 28 s for a block of 4 that takes 5 ms asleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Nodes", "ggml", "hidden", "llama_cpp", "recent_errors", "show_hidden"]

log = logging.getLogger(__name__)


def _bindings() -> Any:
    """llama_cpp.llama_cpp alone: what its package imports beside it (chat formats, a server's types) takes longer."""
    spec = None if "llama_cpp" in sys.modules else importlib.util.find_spec("llama_cpp")
    if spec is None:
        return importlib.import_module("llama_cpp.llama_cpp")
    sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)  # its folder, and nothing done
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    finally:
        del sys.modules["llama_cpp"]  # whoever asks for the whole package gets it


llama_cpp = _bindings()
_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_FOLDER = Path(llama_cpp.__file__).parent / "lib"
ggml = ctypes.CDLL(str(next(_FOLDER.glob(f"*ggml-base{_SUFFIX}"))))
ggml.ggml_get_name.restype = ctypes.c_char_p
ggml.ggml_get_name.argtypes = [ctypes.c_void_p]
ggml.ggml_nbytes.restype = ctypes.c_size_t
ggml.ggml_nbytes.argtypes = [ctypes.c_void_p]
ggml.ggml_backend_tensor_get.restype = None
ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
ggml.ggml_backend_tensor_set.restype = None
ggml.ggml_backend_tensor_set.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
_EVAL_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_LEVEL_ERROR = 4

recent_errors: deque[str] = deque(maxlen=4)
"""What llama.cpp complained about last: it says why a file does not load, its return value does not."""


def _on_log(level: int, text: bytes, _: object) -> None:
    if level != _LEVEL_ERROR and not log.isEnabledFor(logging.DEBUG):  # a thousand lines a model
        return
    line = text.decode("utf-8", "replace").strip()
    if level == _LEVEL_ERROR and line:
        recent_errors.append(line)
    if line:
        log.log(logging.WARNING if level == _LEVEL_ERROR else logging.DEBUG, "%s", line)


_log_callback = _LOG_CALLBACK(_on_log)  # kept alive: llama.cpp holds the pointer
llama_cpp.llama_log_set(_log_callback, None)
llama_cpp.llama_backend_init()
llama_cpp.llama_supports_gpu_offload()  # has drivers loaded now, while a worker's cage is half shut


class Nodes:
    """Writes hidden states into one node of the graph, takes the rows of another, and stops the graph there: what
    follows is a head that the shard lacks.

    The callback is asked about every node, and called with data of the wanted ones, once each ubatch (__init__.py).
    """

    def __init__(self, input_node: str, output_node: str, width: int) -> None:
        """ "": no such node."""
        self._input, self._output, self._width = input_node.encode(), output_node.encode(), width
        self._states: NDArray[np.float32] | None = None
        self._rows: list[NDArray[np.float32]] = []
        self.callback = _EVAL_CALLBACK(self._observe)

    @property
    def wanted(self) -> bool:
        return bool(self._input or self._output)

    def put(self, states: NDArray[np.float32]) -> None:
        """What comes in next, rows [n, width]; `take` tells whether the graph has asked for it."""
        self._states = np.ascontiguousarray(states, np.float32)

    @property
    def is_put(self) -> bool:
        """Has it not been asked for?"""
        return self._states is not None

    def take(self) -> NDArray[np.float32]:
        """Rows [n, width] seen since the last call."""
        rows, self._rows = self._rows, []
        if len(rows) == 1:
            return rows[0]
        return np.concatenate(rows) if rows else np.empty((0, self._width), np.float32)

    def _observe(self, node: int, ask: bool, _: object) -> bool:
        name = ggml.ggml_get_name(node)
        if ask:
            return name in (self._input, self._output) and bool(name)
        if name == self._input:
            self._write(node)
            return True
        rows = np.empty((ggml.ggml_nbytes(node) // 4 // self._width, self._width), np.float32)
        ggml.ggml_backend_tensor_get(node, rows.ctypes.data, 0, rows.nbytes)
        self._rows.append(rows)
        return False

    def _write(self, node: int) -> None:
        """All of it at once: one ubatch a decode. Of another size it is left, and so missed."""
        if self._states is not None and self._states.nbytes == ggml.ggml_nbytes(node):
            ggml.ggml_backend_tensor_set(node, self._states.ctypes.data, 0, self._states.nbytes)
            self._states = None


class Batch:
    """A llama_batch over arrays of our own, so that filling one is a few numpy copies."""

    def __init__(self, capacity: int, width: int, *, both: bool = False) -> None:
        """`width` 0: a batch of tokens; else of states, or of `both`."""
        self.tokens = np.zeros(0 if width and not both else capacity, np.int32)
        self.states = np.zeros((capacity if width else 0, width or 1), np.float32)
        self.positions = np.zeros(capacity, np.int32)
        self.sequences = np.zeros(capacity, np.int32)
        self.wanted = np.zeros(capacity, np.int8)
        self._ones = np.ones(capacity, np.int32)
        self._rows = (self.sequences.ctypes.data + 4 * np.arange(capacity)).astype(np.uintp)
        self._struct = llama_cpp.llama_batch()
        self._point("token", self.tokens if len(self.tokens) else None)
        self._point("embd", self.states if width else None)
        for name, array in (
            ("pos", self.positions),
            ("n_seq_id", self._ones),
            ("seq_id", self._rows),
            ("logits", self.wanted),
        ):
            self._point(name, array)

    def _point(self, name: str, array: NDArray[Any] | None) -> None:
        kind = type(getattr(self._struct, name))
        setattr(self._struct, name, ctypes.cast(0 if array is None else int(array.ctypes.data), kind))

    def add(self, sequence: int) -> Any:
        """As `fill`, with one row more, of nothing: position 0 of a sequence that nobody has."""
        last = self._struct.n_tokens
        (self.tokens if len(self.tokens) else self.states)[last] = 0 if len(self.tokens) else 1.0
        self.sequences[last], self.positions[last], self.wanted[last] = sequence, 0, 1
        self._struct.n_tokens = last + 1
        return self._struct

    def fill(
        self, rows: slice, sequences: NDArray[np.int32], positions: NDArray[np.int32], wanted: NDArray[np.int8]
    ) -> Any:
        """The struct for llama_decode with `rows` of the whole arrays; the inputs are the caller's to copy."""
        count = rows.stop - rows.start
        self.sequences[:count] = sequences[rows]
        self.positions[:count] = positions[rows]
        self.wanted[:count] = wanted[rows]
        self._struct.n_tokens = count
        return self._struct


def show_hidden(context: Any, *, masked: bool) -> None:
    """Keep the hidden state before the head, of each row of a decode (`masked`: of those whose logits are wanted).
    Raises RuntimeError: this library cannot."""
    set_nextn = _unbound("llama_set_embeddings_nextn", "_Z26llama_set_embeddings_nextnP13llama_contextbb")
    set_nextn.argtypes = [llama_cpp.llama_context_p_ctypes, ctypes.c_bool, ctypes.c_bool]
    set_nextn.restype = None
    set_nextn(context, True, masked)


def hidden(context: Any, count: int, width: int) -> NDArray[np.float32]:
    """A copy of these, float32 [count, width], after `show_hidden`."""
    get_nextn = _unbound("llama_get_embeddings_nextn", "_Z26llama_get_embeddings_nextnP13llama_context")
    get_nextn.argtypes = [llama_cpp.llama_context_p_ctypes]
    get_nextn.restype = ctypes.POINTER(ctypes.c_float)
    return np.ctypeslib.as_array(get_nextn(context), (count * width,)).reshape(count, width).copy()


@functools.cache
def _unbound(*names: str) -> Any:
    """A function that llama.cpp has for its own programs, under one of its `names`. Raises RuntimeError."""
    for name in names:
        if hasattr(llama_cpp._lib, name):
            return getattr(llama_cpp._lib, name)
    raise RuntimeError(f"this llama.cpp has no {names[0]}")
