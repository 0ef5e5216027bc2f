"""The tokenizer inside a GGUF file, through llama.cpp. Import only in a worker process or a test of it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.gguf_parts import parts_of
from dsdnode.engine.llama_api import llama_cpp, recent_errors
from dsdnode.engine.port import Message
from dsdnode.engine.template import MAX_TEXT_BYTES, ChatTemplate, Control
from dsdnode.engine.tokenizer import MAX_RUN, LineCutter, RunCutter
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.wire.calls import CallFormat

_TYPE_NONE, _TYPE_BPE = 0, 2
"""llama_vocab_type"""
_UNKNOWN, _CONTROL, _USER_DEFINED, _LSTRIP, _RSTRIP = 1 << 0, 1 << 3, 1 << 4, 1 << 7, 1 << 8
"""llama_token_attr"""
_ORDINARY = 1 << 2 | _USER_DEFINED
"""Also of those that llama.cpp has made control tokens."""
_STRUCK_OUT = "</s>"
_PIECE_BYTES = 1024
_SPECIALS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator"}
_SPECIALS |= {"pad_token": "padding", "mask_token": "mask"}
"""As `apply_chat_template` and GGUF call them."""
NO_TEMPLATE = "the model has no chat template, so nobody can chat with it; `dsdnode run --raw TEXT` continues a text"


def load_vocab(path: Path) -> LlamaVocab:
    """Of the model file at `path`, without its layers. Raises ModelRefused, also when it has no tokenizer."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    recent_errors.clear()
    model = llama_cpp.llama_model_load_from_file(bytes(parts_of(path)[0]), parameters)
    if not model:
        raise ModelRefused(
            f"{path}: llama.cpp cannot load its tokenizer: {'; '.join(recent_errors) or 'no reason given'}"
        )
    template = llama_cpp.llama_model_chat_template(model, None)
    vocab = llama_cpp.llama_model_get_vocab(model)
    return LlamaVocab(vocab, template.decode("utf-8", "replace") if template else None, _named(model))


def _named(model: Any) -> dict[str, int]:
    """Ids of special tokens, as the file names them; llama.cpp makes up the others (a comma, for one)."""
    ids, buffer = {}, ctypes.create_string_buffer(16)
    for name, key in _SPECIALS.items():
        length = llama_cpp.llama_model_meta_val_str(model, f"tokenizer.ggml.{key}_token_id".encode(), buffer, 16)
        if length > 0 and buffer.value.isdigit():
            ids[name] = int(buffer.value)
    return ids


class LlamaVocab:
    """Text to token ids and back, for a model file that has a tokenizer."""

    def __init__(self, vocab: Any, template_source: str | None, named: Mapping[str, int]) -> None:
        """`vocab`: llama.cpp's pointer; `named`: ids of special tokens, as templates call them.

        Raises ModelRefused when there is no tokenizer: in a shard.
        """
        kind = int(llama_cpp.llama_vocab_type(vocab))
        if kind == _TYPE_NONE:
            raise ModelRefused("the model file has no tokenizer: a shard needs none, but a draft model does")
        self._vocab = vocab
        self.size = int(llama_cpp.llama_vocab_n_tokens(vocab))
        self._bos = int(llama_cpp.llama_vocab_bos(vocab))
        self._add_bos = bool(llama_cpp.llama_vocab_get_add_bos(vocab)) and self._bos >= 0
        self._named = dict(named)
        if kind != _TYPE_BPE and self._bos >= 0:
            self._named.setdefault("bos_token", self._bos)
        self._template_source = template_source
        self._template: ChatTemplate | None = None
        self._has_regex = kind == _TYPE_BPE
        """The other kinds split nothing with regular expressions, and begin every text with a space of their own."""

    @property
    def has_template(self) -> bool:
        return self._template_source is not None

    def prepare(self) -> None:
        """What the first text would wait for: of 262,144 tokens, seconds on a busy machine."""
        _ = self._controls, self._cutter

    def end_tokens(self) -> list[int]:
        """Ids after which a reply is over, ascending."""
        return [token for token in self._taken_for_ends if token not in self._no_ends]

    @cached_property
    def _taken_for_ends(self) -> list[int]:
        """By llama.cpp."""
        return [token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(self._vocab, token)]

    @cached_property
    def _no_ends(self) -> frozenset[int]:
        """Those that the file does not mark as such."""
        return frozenset(filter(self._is_made_up, self._taken_for_ends))

    def _is_made_up(self, end_token: int) -> bool:
        """Where a file names no EOS, llama.cpp takes one by its number: a comma, say. By its text it takes HTML's mark
        behind what is struck out, which is a word among others in Gemma's files."""
        attributes = self._attributes(end_token)
        if end_token == int(llama_cpp.llama_vocab_eos(self._vocab)):
            return end_token != self._named.get("eos_token") and not attributes & _CONTROL
        return self.name(end_token) == _STRUCK_OUT and bool(attributes & _ORDINARY)

    def pieces(self) -> list[bytes]:
        """The bytes of every token; control tokens have none."""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        return [self._piece(token, buffer) for token in range(self.size)]

    def tokenize(self, text: str, parse_special: bool) -> NDArray[np.int32]:
        """Ids of `text`, beginning with the model's BOS if it wants one; `parse_special`: control tokens in it count.

        Raises BadInput for a text that is too long.
        """
        return self._with_bos(self._tokenize(text, parse_special))

    def tokenize_bytes(self, data: bytes) -> NDArray[np.int32]:
        """Ids of a text; none of one so long that splitting it might end the process (tokenizer.py)."""
        return self._tokenize_part(data, False) if len(data) <= MAX_RUN else np.empty(0, np.int32)

    def calls(self) -> CallFormat:
        """How the model writes that it calls a tool. Raises ModelRefused, as `render`."""
        return self._chat_template().calling[1]

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            if self._template_source is None:
                raise ModelRefused(NO_TEMPLATE)
            specials = {name: self.name(token) for name, token in self._named.items()}
            self._template = ChatTemplate(self._template_source, self._controls, specials)
        return self._template

    def render(self, messages: Sequence[Message], tools: str = "") -> NDArray[np.int32]:
        """Ids of a conversation. Raises BadInput, or ModelRefused without a (working) template."""
        pieces = self._chat_template().render(messages, tools)
        ids = [
            np.array([piece], np.int32) if isinstance(piece, int) else self._tokenize(piece, False) for piece in pieces
        ]
        return self._with_bos(np.concatenate(ids) if ids else np.empty(0, np.int32))

    def _with_bos(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        if self._add_bos and (len(ids) == 0 or ids[0] != self._bos):
            return np.concatenate([np.array([self._bos], np.int32), ids])
        return ids

    def _tokenize(self, text: str, parse_special: bool) -> NDArray[np.int32]:
        if len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
            raise BadInput(f"the text is longer than {MAX_TEXT_BYTES} bytes")
        ids = [self._tokenize_part(part.encode("utf-8", "replace"), parse_special) for part in self._cutter.cut(text)]
        return np.concatenate(ids) if ids else np.empty(0, np.int32)

    def _tokenize_part(self, data: bytes, parse_special: bool) -> NDArray[np.int32]:
        capacity = len(data) + 16
        for _ in range(2):
            ids = (llama_cpp.llama_token * capacity)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, capacity, False, parse_special)
            if count >= 0:
                return np.frombuffer(ids, np.int32, count).copy() if count else np.empty(0, np.int32)
            capacity = -int(count)
        raise BadInput("the text cannot be tokenized")

    @cached_property
    def _cutter(self) -> RunCutter | LineCutter:
        """Knows every token that is found in a text as a whole, before it is split."""
        whole = _UNKNOWN | _CONTROL | _USER_DEFINED
        kinds = ((self.name(token), self._attributes(token)) for token in range(self.size))
        # (A line feed that is a control token is found in some texts alone.)
        texts = (text for text, kind in kinds if kind & (_USER_DEFINED if text == "\n" else whole))
        return RunCutter(texts) if self._has_regex else LineCutter(texts)

    @cached_property
    def _controls(self) -> dict[str, Control]:
        return self.controls()

    def controls(self) -> dict[str, Control]:
        """Control tokens by the text that names them."""
        controls = {}
        for token in range(self.size):
            attributes = self._attributes(token)
            if attributes & _CONTROL:
                controls[self.name(token)] = Control(token, bool(attributes & _LSTRIP), bool(attributes & _RSTRIP))
        return controls

    def _attributes(self, token: int) -> int:
        return int(llama_cpp.llama_vocab_get_attr(self._vocab, token))

    def name(self, token: int) -> str:
        """What templates call the token; of a control token nothing else is known. Empty for no token."""
        if not 0 <= token < self.size:
            return ""
        return bytes(llama_cpp.llama_vocab_get_text(self._vocab, token)).decode("utf-8", "replace")

    def _piece(self, token: int, buffer: Any) -> bytes:
        is_shown = token in self._no_ends
        count = int(llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, is_shown))
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = int(llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, is_shown))
        return bytes(buffer[:count])
