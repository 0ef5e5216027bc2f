"""Two files have one tokenizer if text becomes the same ids in both, whatever else they say of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsdnode.engine.gguf_header import ARRAY, FLOAT32, INT32, STRING, UINT32, Header, Value, read_header
from dsdnode.engine.gguf_tokenizer import tokenizer_hash
from dsdnode.engine.gguf_writer import NewTensor, write_gguf
from dsdnode.errors import ModelRefused

DEMO = Path(__file__).parents[2] / "dsdnode" / "models" / "demo-draft.gguf"
NORMAL, CONTROL, UNUSED = 1, 3, 5
TOKENS = ["a", "b", "ab", "<|end|>", "<|pad|>"]
TYPES = [NORMAL, NORMAL, NORMAL, CONTROL, CONTROL]


def value(data: Any) -> Value:
    if isinstance(data, str):
        return Value(STRING, data)
    if isinstance(data, int):
        return Value(UINT32, data)
    if isinstance(data[0], str):
        return Value(ARRAY, tuple(text.encode() for text in data), STRING)
    kind = FLOAT32 if isinstance(data[0], float) else INT32
    return Value(ARRAY, np.array(data, np.float32 if kind == FLOAT32 else np.int32), kind)


def header(**changes: Any) -> Header:
    """Of a small BPE file; None in place of a value: the file does not say it."""
    said: dict[str, Any] = {"model": "gpt2", "pre": "qwen2", "tokens": TOKENS, "token_type": TYPES, "merges": ["a b"]}
    said |= {"eos_token_id": 3} | changes
    metadata = {f"tokenizer.ggml.{key}": value(data) for key, data in said.items() if data is not None}
    return Header("bob.gguf", metadata, {})


def named(**changes: Any) -> str:
    return tokenizer_hash(header(**changes))


def spm(**changes: Any) -> str:
    return named(**({"model": "llama", "pre": None, "merges": None, "scores": [0.0, -1.0, -2.0, 0.0, 0.0]} | changes))


PADDED = {"tokens": [*TOKENS, "[PAD5]", "[PAD6]"], "token_type": [*TYPES, UNUSED, UNUSED]}


@pytest.mark.parametrize(
    "changes",
    [
        PADDED,
        {"tokens": [*TOKENS, "<|dummy_7|>"], "token_type": [*TYPES, UNUSED]},
        {"padding_token_id": 4},
        {"padding_token_id": 3},
        {"eos_token_id": 4},
        {"eos_token_id": None, "eot_token_id": 3, "eom_token_id": 4},
        {"fim_pre_token_id": 1, "fim_sep_token_id": 2, "prefix_token_id": 1, "seperator_token_id": 1},
        {"unknown_token_id": 0, "mask_token_id": 1, "cls_token_id": 2},
        {"bos_token_id": 2},
        {"add_bos_token": 0},
        {"add_eos_token": 1, "add_sep_token": 0},
        {"add_space_prefix": 0, "remove_extra_whitespaces": 0},
        {"scores": [0.0, 1.0, 2.0, 3.0, 4.0]},
        {"token_type_count": 2},
    ],
)
def test_what_decides_no_id_is_not_in_the_name(changes: dict[str, Any]) -> None:
    assert named(**changes) == named()


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": ["b", "a", *TOKENS[2:]]},
        {"tokens": [*TOKENS, "<think>"], "token_type": [*TYPES, NORMAL]},
        {"tokens": [*TOKENS, "[PAD5]", "<think>"], "token_type": [*TYPES, UNUSED, CONTROL]},
        {"token_type": [NORMAL, NORMAL, NORMAL, CONTROL, NORMAL]},
        {"pre": "smollm"},
        {"pre": None},
        {"merges": ["b a"]},
        {"add_bos_token": 1, "bos_token_id": 3},
        {"add_space_prefix": 1},
        {"a_key_of_the_future": 1},
    ],
)
def test_what_decides_ids_is_in_the_name(changes: dict[str, Any]) -> None:
    assert named(**changes) != named()


def test_a_text_begins_with_the_same_token() -> None:
    """Where BOS is put before a text, its id counts; where that is the default, it may be spelled out."""
    llama3 = {"pre": "llama-bpe", "bos_token_id": 3}
    assert named(**llama3) == named(**llama3, add_bos_token=1) == named(**llama3 | {"pre": "llama3"})
    assert named(**llama3) != named(**llama3, add_bos_token=0)
    assert named(**llama3) != named(**llama3 | {"bos_token_id": 4})
    assert spm() == spm(add_bos_token=1, bos_token_id=1, add_space_prefix=1)
    assert spm() != spm(bos_token_id=2)


def test_scores_and_merges_count_where_they_merge() -> None:
    assert spm() == spm(merges=["a b"]) == spm(pre="default") == spm(**PADDED, scores=[0.0, -1.0, -2.0, *[0.0] * 4])
    assert spm() != spm(scores=[0.0, -2.0, -1.0, 0.0, 0.0])
    assert spm() != spm(add_space_prefix=0)


def test_a_file_without_types_has_usual_tokens_only() -> None:
    assert named(token_type=None) == named(token_type=[NORMAL] * 5)


@pytest.mark.parametrize("changes", [{"token_type": [1]}, {"tokens": "abc"}, {"scores": 1, "model": "llama"}])
def test_a_tokenizer_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused, match=r"bob.gguf: the tokenizer"):
        named(**changes)


PRES = re.findall(
    r"\S+",
    """default llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano deepseek-llm
deepseek-coder deepseek-v3 youtu falcon mpt starcoder gpt-2 phi-2 gigachat a.x-4.0 mellum jais-2
granite-embed-multi-311m jina-v1-en roberta-bpe refact command-r qwen2 deepseek-r1-qwen kormo f2llmv2 qwen35 stablelm2
olmo dbrx smaug-bpe poro-chat glm4 glm5 viking jais tekken smollm codeshell bloom gpt3-finnish exaone exaone4 exaone-moe
chameleon minerva-7b megrez gpt-4o llama4 kanana2 tiny_aya superbpe trillion granite-docling bailingmoe llada-moe
seed-coder hunyuan hunyuan-dense joyai-llm kimi-k2 grok-2 afmoe minimax-m2 solar-open laguna modern-bert""",
)


@pytest.mark.slow
def test_llama_cpp_begins_texts_as_we_think(tmp_path: Path) -> None:
    """Of every way of splitting texts: whether BOS is the default."""
    from dsdnode.engine.llama_api import llama_cpp

    demo, path = read_header(DEMO), tmp_path / "model.gguf"
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    for pre in PRES:
        metadata = {key: data for key, data in demo.metadata.items() if not key.endswith(".add_bos_token")}
        metadata["tokenizer.ggml.pre"] = Value(STRING, pre)
        with DEMO.open("rb") as file:
            tensors = [NewTensor(one.name, one.shape, one.type, source=one) for one in demo.tensors.values()]
            write_gguf(path, metadata, tensors, file)
        model = llama_cpp.llama_model_load_from_file(bytes(path), parameters)
        begins = bool(llama_cpp.llama_vocab_get_add_bos(llama_cpp.llama_model_get_vocab(model)))
        llama_cpp.llama_model_free(model)
        spelled_out = metadata | {"tokenizer.ggml.add_bos_token": Value(UINT32, int(begins))}
        assert tokenizer_hash(Header("", spelled_out, {})) == tokenizer_hash(Header("", metadata, {})), pre
