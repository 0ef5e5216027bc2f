"""Prompts in words, of a world's clients: what a drafter's fake tokenizer (engine/fake.py) makes of them, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dsdnode.client.client import GenerateRequest
from dsdnode.wire.replies import GenerateBody


def ids_of(text: str) -> list[int]:
    return [1 + (ord(character) - 33) % 96 for character in text]


def words_of(tokens: Iterable[int]) -> str:
    return "".join(chr(32 + token) for token in tokens)


def rendered(messages: Iterable[tuple[str, str]]) -> list[int]:
    return ids_of("\n".join(f"{role}: {content}" for role, content in messages))


def prompt_of(body: GenerateBody) -> list[int]:
    """The ids of what is asked."""
    if body.prompt_tokens or not (body.messages or body.text):
        return list(body.prompt_tokens)
    return rendered((one.role, one.content) for one in body.messages) if body.messages else ids_of(body.text)


def prompt_asked(request: GenerateRequest) -> Sequence[int]:
    if request.messages:
        return rendered((one["role"], one["content"]) for one in request.messages)
    return ids_of(request.prompt) if request.prompt is not None else request.prompt_tokens or ()
