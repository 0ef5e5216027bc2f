"""A minimal greedy runner on llama.cpp's C interface, for measuring only (the product's engine is dsdnode/engine).

One sequence, one thread, Q8_0, flash attention, `use_extra_bufts = False`, the prompt in a call of its own: the
setting in which the blocks do not change the result. (With the first block beside the prompt in one call, 34 of 200
GSM8K replies differed from plain decoding, by near-ties.)
"""

import ctypes
import os
from pathlib import Path

os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import llama_cpp
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

BATCH = 512  # tokens of one decode call
_quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)


class Runner:
    """A model and one sequence of tokens in its cache."""

    def __init__(self, path: Path, context: int = 2048, threads: int = 1, precise: bool = False) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = False
        options.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise ValueError(f"{path} is not a model llama.cpp can load")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = context, BATCH, BATCH
        settings.n_threads = settings.n_threads_batch = threads
        settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if precise:  # compare with torch: no half precision in the cache
            settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
            settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.eos = llama_cpp.llama_vocab_eos(self.vocabulary)
        self.tokens: list[int] = []

    def meta(self, key: str) -> str:
        """Return a string of the file's metadata."""
        buffer = ctypes.create_string_buffer(65_536)
        llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode()

    def render(self, messages: list[dict[str, str]]) -> str:
        """Apply the file's own chat template, opening the assistant's turn."""
        template = ImmutableSandboxedEnvironment().from_string(self.meta("tokenizer.chat_template"))
        return template.render(messages=messages, add_generation_prompt=True)

    def encode(self, text: str) -> list[int]:
        """Turn text into ids; specials in it are read as such."""
        raw = text.encode()
        ids = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self.vocabulary, raw, len(raw), ids, len(ids), False, True)
        return list(ids[:count])

    def decode(self, ids: list[int]) -> str:
        """Turn ids into text, specials left out."""
        pieces = []
        for token in ids:
            buffer = ctypes.create_string_buffer(256)
            size = llama_cpp.llama_token_to_piece(self.vocabulary, token, buffer, len(buffer), 0, False)
            pieces.append(buffer.raw[: max(0, size)])
        return b"".join(pieces).decode(errors="replace")

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on."""
        if length < len(self.tokens):
            llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), 0, length, -1)
            del self.tokens[length:]

    def forward(self, ids: list[int], wanted: int = 1) -> np.ndarray:
        """Append tokens; return the logits after each of the last `wanted` of them."""
        out: list[np.ndarray] = []
        for start in range(0, len(ids), BATCH):
            chunk = ids[start : start + BATCH]
            self._batch.n_tokens = len(chunk)
            for i, token in enumerate(chunk):
                self._batch.token[i], self._batch.pos[i] = token, len(self.tokens) + i
                self._batch.n_seq_id[i], self._batch.seq_id[i][0] = 1, 0
                self._batch.logits[i] = start + i >= len(ids) - wanted
            if llama_cpp.llama_decode(self._context, self._batch) != 0:
                raise RuntimeError("llama.cpp could not decode the block")
            for i in range(len(chunk)):
                if self._batch.logits[i]:
                    row = llama_cpp.llama_get_logits_ith(self._context, i)
                    out.append(np.ctypeslib.as_array(row, (self.vocab_size,)).copy())
            self.tokens += chunk
        return np.stack(out)
