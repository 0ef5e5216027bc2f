"""Does a draft model fit a target: is a text the same ids to both, whatever else their files say?

The target's own tokenizer reads all texts of its replies (gguf_text.py), so a draft model decides nothing of them; it
must only mean the same by an id. Two files fit where they do so with every token that texts are merged from. Those
that were added beside them (control tokens, and the like) may differ: their ids are *foreign* to the draft model. It
is shown another token in their place, and what it proposes of them is never sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.gguf_header import Header, Value
from dsdnode.engine.gguf_tokenizer import MAX_SHOWN, decisive, difference, shown, spelled
from dsdnode.errors import ModelRefused

_MERGED = (1, 6)
"""Types of tokens: those that words are merged from are normal ones and bytes."""
_ALIKE = (
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open",
    "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert exaone4 jina-v1-en"
    " jina-v2-code roberta-bpe mpt olmo jais trillion granite-docling",
    "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    "gpt-4o llama4 kanana2 talkie minimax-m2",
    "dbrx smaug-bpe",
    "poro-chat bloom gpt3-finnish",
    "glm4 glm5",
    "tiny_aya cohere2moe",
    "bailingmoe bailingmoe2 llada-moe",
)
"""Names under which llama.cpp splits a text with the same expressions (`pre`). A test compares."""
SAME_SPLIT = {name: names.split()[0] for names in _ALIKE for name in names.split()}


@dataclass(frozen=True, slots=True)
class Fit:
    """`reason`: why they do not fit, in words; empty: they do. `foreign`: ids that differ, ascending."""

    reason: str = ""
    foreign: tuple[int, ...] = ()
    told: str = ""
    """The first of these, in words."""


def fit(draft: Header, target: Header) -> Fit:
    """Raises ModelRefused for a tokenizer that makes no sense."""
    mine, theirs = _comparable(draft), _comparable(target)
    rules = sorted((mine.keys() | theirs.keys()) - {"tokens", "token_type", "scores", "bos"})
    reasons = [difference(key, mine, theirs) for key in rules if spelled(mine, key) != spelled(theirs, key)]
    reason, foreign, told = _tokens(mine, theirs)
    reasons += [reason] if reason else []
    return Fit("; ".join(reasons)) if reasons else Fit("", foreign, told)


def _comparable(header: Header) -> Mapping[str, Value]:
    said = dict(decisive(header))
    if "tokens" not in said:
        raise ModelRefused(f"{header.name}: has no tokenizer")
    if "pre" in said:
        pre = said["pre"]
        said["pre"] = Value(pre.type, SAME_SPLIT.get(str(pre.data), pre.data))
    return said


def _tokens(mine: Mapping[str, Value], theirs: Mapping[str, Value]) -> tuple[str, tuple[int, ...], str]:
    """(why not, foreign ids, these in words)"""
    texts, types = zip(*(_texts(said) for said in (mine, theirs)), strict=True)
    shared = min(map(len, texts))
    merged = [np.isin(one, _MERGED) for one in types]
    differ = np.array([a != b for a, b in zip(*texts, strict=False)], bool)
    wrong = np.flatnonzero(differ & merged[0][:shared] & merged[1][:shared]).tolist()
    wrong += (shared + np.flatnonzero(np.concatenate([one[shared:] for one in merged]))).tolist()
    if "scores" in mine and "scores" in theirs:
        both = np.flatnonzero(merged[0][:shared] & merged[1][:shared])
        wrong += both[_scores(mine)[both] != _scores(theirs)[both]].tolist()
    foreign = [*np.flatnonzero(differ).tolist(), *range(shared, max(map(len, texts)))]
    if wrong:
        return f"tokens at {_told(sorted(set(wrong)), texts)}", (), ""
    return "", tuple(foreign), _told(foreign, texts)


def _texts(said: Mapping[str, Value]) -> tuple[tuple[bytes, ...], NDArray[np.int64]]:
    tokens, types = said["tokens"].data, said["token_type"].data
    assert isinstance(tokens, tuple) and isinstance(types, np.ndarray)
    return tokens, types.astype(np.int64)


def _scores(said: Mapping[str, Value]) -> NDArray[np.float64]:
    scores = said["scores"].data
    assert isinstance(scores, np.ndarray)
    return scores.astype(np.float64)


def _told(ids: list[int], texts: tuple[tuple[bytes, ...], ...]) -> str:
    def text(side: tuple[bytes, ...], token: int) -> str:
        return shown(side[token]) if token < len(side) else "none"

    told = [f"{token} ({text(texts[0], token)} and {text(texts[1], token)})" for token in ids[:MAX_SHOWN]]
    more = [f"{len(ids) - MAX_SHOWN} more"] if len(ids) > MAX_SHOWN else []
    return ", ".join([*told, *more])
