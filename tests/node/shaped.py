"""The reference for shaped replies: the whole fake model, one token at a time, in the plainest words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import FakeModel, Hashes
from dsdnode.speculation.sampling import Sampling, draw


def shaped_reply(
    model: FakeModel, request: GenerateRequest, num_tokens: int = 0
) -> tuple[list[int], list[dict[int, float]]]:
    """Tokens (the end, 0, excluded), and the log-probabilities of all tokens at each of their places."""
    prompt = list(request.prompt_tokens or ())
    reply: list[int] = []
    logprobs: list[dict[int, float]] = []
    hashes: Hashes = ()
    for token in prompt:
        hashes = model.step(hashes, 0, model.num_layers, token)
    sampling = Sampling(request.temperature, seed=request.seed)
    for _ in range(num_tokens or request.max_tokens):
        own = model.logits(hashes[-1])
        token = draw(_shaped(own, prompt, reply, request), len(prompt) + len(reply), sampling)
        if token == 0 and not request.ignore_eos:
            break
        total = math.log(sum(math.exp(value) for value in own.tolist()))
        logprobs.append({index: value - total for index, value in enumerate(own.tolist())})
        reply.append(token)
        hashes = model.step(hashes, 0, model.num_layers, token)
    return reply, logprobs


def _shaped(
    own: np.ndarray[tuple[int], np.dtype[np.float32]],
    prompt: Sequence[int],
    reply: Sequence[int],
    request: GenerateRequest,
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    line, counts, f32 = [*prompt, *reply], Counter(reply), np.float32
    last = line if request.repeat_last_n < 0 else line[len(line) - min(len(line), request.repeat_last_n) :]
    shaped = []
    for token, value in enumerate(own):
        value = f32(value + f32(request.logit_bias.get(token, 0.0)))
        if token in last:
            by = f32(request.repetition_penalty)
            value = value / by if value > 0 else value * by
        if counts[token]:
            value = value - (f32(request.frequency_penalty) * f32(counts[token]) + f32(request.presence_penalty))
        shaped.append(value)
    return np.array(shaped, np.float32)
