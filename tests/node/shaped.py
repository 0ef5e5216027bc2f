"""The reference for shaped replies: a whole model, one token at a time, in the plainest words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import FakeModel, Hashes
from dsdnode.speculation.sampling import Sampling, draw
from dsdnode.wire.logprobs import SaidPosition

Logits = NDArray[np.float32]


def shaped_reply(model: FakeModel, request: GenerateRequest) -> tuple[list[int], list[list[float]]]:
    hashes: Hashes = ()

    def then(token: int) -> Logits:
        nonlocal hashes
        hashes = model.step(hashes, 0, model.num_layers, token)
        return model.logits(hashes[-1])

    return reply_of(then, request, (0,))


def reply_of(
    then: Callable[[int], Logits], request: GenerateRequest, ends: Sequence[int]
) -> tuple[list[int], list[list[float]]]:
    """Tokens, and the log-probabilities of the whole vocabulary in each one's place. `then`: what the model says behind
    one more token."""
    prompt = list(request.prompt_tokens or ())
    reply: list[int] = []
    logprobs: list[list[float]] = []
    for token in prompt:
        own = then(token)
    sampling = Sampling(request.temperature, seed=request.seed)
    while len(reply) < request.max_tokens:
        token = draw(_shaped(own, prompt, reply, request), len(prompt) + len(reply), sampling)
        if token in ends and not request.ignore_eos:
            break
        best = float(own.max())
        total = best + math.log(math.fsum(math.exp(value - best) for value in own.tolist()))
        logprobs.append([value - total for value in own.tolist()])
        reply.append(token)
        own = then(token)
    return reply, logprobs


def _shaped(own: Logits, prompt: Sequence[int], reply: Sequence[int], request: GenerateRequest) -> Logits:
    line, counts, f32 = [*prompt, *reply], Counter(reply), np.float32
    last = line if request.repeat_last_n < 0 else line[len(line) - min(len(line), request.repeat_last_n) :]
    shaped = own.copy()
    for token, value in request.logit_bias.items():
        shaped[token] += f32(value)
    for token in set(last):
        by = f32(request.repetition_penalty)
        shaped[token] = shaped[token] / by if shaped[token] > 0 else shaped[token] * by
    for token, times in counts.items():
        shaped[token] -= f32(request.frequency_penalty) * f32(times) + f32(request.presence_penalty)
    return shaped


def farthest(
    positions: Sequence[SaidPosition], tokens: Sequence[int], logprobs: Sequence[Sequence[float]], num_top: int
) -> float:
    """Of the log-probabilities that were told, the largest distance from what they should be. They must be of these
    tokens and, beside each, of the most likely ones."""
    assert [one.said.token for one in positions] == list(tokens)
    found = 0.0
    for one, whole in zip(positions, logprobs, strict=True):
        likeliest = sorted(range(len(whole)), key=lambda token: (-whole[token], token))[:num_top]
        assert [other.token for other in one.top] == likeliest
        found = max(found, *(abs(other.logprob - whole[other.token]) for other in (one.said, *one.top)))
    return found
