"""Log-probabilities as programs expect them: of the model's own distribution, before penalties, biases and filters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dsdnode.wire.logprobs import SaidPosition, SaidToken


def chat_logprobs(positions: Iterable[SaidPosition]) -> list[dict[str, Any]]:
    """OpenAI's chat's, responses' and Ollama's: an object a token."""
    return [{**_token(one.said), "top_logprobs": [_token(other) for other in one.top]} for one in positions]


def text_logprobs(positions: Iterable[SaidPosition], offset: int = 0) -> dict[str, list[Any]]:
    """OpenAI's text completions': lists. `offset`: characters of the text before."""
    told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for one in positions:
        text = _text(one.said)
        told["tokens"].append(text)
        told["token_logprobs"].append(one.said.logprob)
        told["top_logprobs"].append({_text(other): other.logprob for other in reversed(one.top)})
        told["text_offset"].append(offset)
        offset += len(text)
    return told


def _token(said: SaidToken) -> dict[str, Any]:
    return {"token": _text(said), "logprob": said.logprob, "bytes": list(said.data)}


def _text(said: SaidToken) -> str:
    """Half a character is replaced: its bytes are told beside it."""
    return said.data.decode("utf-8", "replace")
