"""The reference for constrained replies: the whole fake model, one token at a time, each under its mask."""

from __future__ import annotations

from collections.abc import AsyncIterator

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import FakeModel, FakeTextEngine, Hashes
from dsdnode.speculation.masks import masked
from dsdnode.speculation.sampling import Sampling, draw
from tests.node.swarm import TARGET


async def constrained_reply(request: GenerateRequest, model: FakeModel = TARGET) -> list[int]:
    """Tokens, the end (0) excluded. Raises BadInput: it came to a dead end."""
    return [token async for token in constrained_tokens(request, model)]


async def constrained_tokens(request: GenerateRequest, model: FakeModel = TARGET) -> AsyncIterator[int]:
    """Each as it is drawn."""
    assert request.constraint is not None
    grammar = await FakeTextEngine(model).constrain(request.constraint, model.vocab_size)
    prompt, reply = list(request.prompt_tokens or ()), list[int]()
    hashes: Hashes = ()
    for token in prompt:
        hashes = model.step(hashes, 0, model.num_layers, token)
    sampling = Sampling(request.temperature, request.top_k, request.top_p, request.min_p, request.seed)
    while len(reply) < request.max_tokens:
        ((_, mask),) = (await grammar.masks(reply, len(reply), again=True)).fresh
        token = draw(masked(model.logits(hashes[-1]), mask), len(prompt) + len(reply), sampling)
        if token == 0:
            break
        yield token
        reply.append(token)
        hashes = model.step(hashes, 0, model.num_layers, token)
