"""Batched, KV-cached generation in torch, keeping the top logits of every token: what the draft is distilled from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import Model, rotations
from torch import Tensor

TOP = 16  # log-probabilities kept per token
END = 4  # <|end|>


@dataclass
class Completion:
    """A reply and, per token of it, the model's best tokens with their log-probabilities."""

    prompt: list[int]
    reply: list[int]
    best: np.ndarray  # uint16 [tokens, TOP]
    scores: np.ndarray  # float16 [tokens, TOP]


class _Cache:
    """Keys and values of a batch; prompts are padded on the left so that all rows grow at one place."""

    def __init__(self, model: Model, rows: int, width: int) -> None:
        config = model.config
        shape = (config.num_layers, 2, rows, config.num_heads, width, config.head_width)
        self.values = torch.zeros(shape, dtype=torch.bfloat16)
        self.filled = 0

    def keep(self, rows: Tensor) -> None:
        """Drop the rows that have ended."""
        self.values = self.values[:, :, rows]


def _forward(model: Model, cache: _Cache, ids: Tensor, padding: Tensor) -> Tensor:
    """Append columns of tokens; returns the logits after the last column."""
    start, end = cache.filled, cache.filled + ids.shape[1]
    positions = (torch.arange(start, end)[None] - padding[:, None]).clamp(min=0)
    cos, sin = (part[:, None] for part in rotations(model.config, positions))
    columns = torch.arange(end)[None, None]
    mask = (columns <= torch.arange(start, end)[None, :, None]) & (columns >= padding[:, None, None])
    mask = (mask | (columns == torch.arange(start, end)[None, :, None]))[:, None]
    x = model.token_embd(ids)
    for number, block in enumerate(model.blk):
        q, k, v = block.project(x, cos, sin)
        cache.values[number, 0, :, :, start:end] = k
        cache.values[number, 1, :, :, start:end] = v
        keys, values = cache.values[number, :, :, :, :end]
        x = block.finish(x, F.scaled_dot_product_attention(q.to(keys.dtype), keys, values, attn_mask=mask))
    cache.filled = end
    return model.head(model.output_norm(x[:, -1])).float()


@torch.no_grad()
def complete(model: Model, prompts: list[list[int]], temperature: float, limit: int) -> list[Completion]:
    """Complete one batch of prompts, each until <|end|> or `limit` tokens. Temperature 0 is greedy."""
    longest = max(map(len, prompts))
    padding = torch.tensor([longest - len(p) for p in prompts])
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    cache = _Cache(model, len(prompts), longest + limit)
    out: list[tuple[list[int], list[Tensor], list[Tensor]]] = [([], [], []) for _ in prompts]
    live = list(range(len(prompts)))
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(limit):
            scores, best = F.log_softmax(_forward(model, cache, ids, padding), -1).topk(TOP)
            chosen = best[:, 0]
            if temperature > 0:
                chosen = best.gather(1, torch.multinomial((scores / temperature).softmax(-1), 1))[:, 0]
            for row, number in enumerate(live):
                for kept, value in zip(out[number], (int(chosen[row]), best[row], scores[row]), strict=True):
                    kept.append(value)
            going = (chosen != END).nonzero()[:, 0]
            if len(going) == 0:
                break
            if len(going) < 0.8 * len(live):
                cache.keep(going)
                padding, chosen = padding[going], chosen[going]
                live = [live[int(row)] for row in going]
            ids = chosen[:, None]
    return [_cut(prompt, *parts) for prompt, parts in zip(prompts, out, strict=True)]


def _cut(prompt: list[int], reply: list[int], best: list[Tensor], scores: list[Tensor]) -> Completion:
    """End a reply at its first <|end|> (ended rows may have run on until they were dropped)."""
    size = reply.index(END) + 1 if END in reply else len(reply)
    return Completion(
        prompt,
        reply[:size],
        torch.stack(best[:size]).numpy().astype(np.uint16),
        torch.stack(scores[:size]).numpy().astype(np.float16),
    )


def save_completions(path: Path, items: list[Completion]) -> None:
    """Store completions as flat arrays."""
    np.savez(
        path,
        prompt_sizes=np.array([len(item.prompt) for item in items]),
        reply_sizes=np.array([len(item.reply) for item in items]),
        tokens=np.concatenate([np.array(item.prompt + item.reply, np.uint16) for item in items]),
        best=np.concatenate([item.best for item in items]),
        scores=np.concatenate([item.scores for item in items]),
    )


def load_completions(path: Path) -> list[Completion]:
    """Read what `save_completions` wrote."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    items, token, row = [], 0, 0
    for prompt, reply in zip(arrays["prompt_sizes"], arrays["reply_sizes"], strict=True):
        ids = arrays["tokens"][token : token + prompt + reply].tolist()
        rows = slice(row, row + reply)
        items.append(Completion(ids[:prompt], ids[prompt:], arrays["best"][rows], arrays["scores"][rows]))
        token, row = token + prompt + reply, row + reply
    return items
