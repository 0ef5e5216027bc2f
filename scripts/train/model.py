"""A llama-architecture transformer in torch, laid out so that llama.cpp computes the same (interleaved RoPE).

The target is trained with an *exit*: a second norm and the shared output head after its first `exit_layer` layers.
Those layers, that norm and that head are the draft's beginning: it starts as a part of the model it must predict.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Shape of a model; widths in values, `context` in tokens."""

    num_layers: int = 8
    width: int = 160
    num_heads: int = 5
    feed_forward: int = 448
    vocab_size: int = 2048
    exit_layer: int = 0
    context: int = 2048
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Values of one attention head."""
        return self.width // self.num_heads


def rotations(config: Config, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of every position and frequency: [positions, head_width / 2]."""
    exponents = torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width
    angles = positions.float()[..., None] * config.rope_base**-exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs (the `norm` kind of RoPE, as llama.cpp does for its llama architecture)."""
    pairs = x.float().unflatten(-1, (-1, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention written out: at rows of some hundred tokens this is quicker on a CPU than torch's fused kernel."""
    scores = (q @ k.mT).float() * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask, -1e30).softmax(-1).to(v.dtype) @ v


class Block(nn.Module):
    """One layer; matrices keep llama.cpp's names so that the export is a loop."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.attn_norm = nn.RMSNorm(width, config.norm_epsilon)
        self.ffn_norm = nn.RMSNorm(width, config.norm_epsilon)
        self.attn_q, self.attn_k, self.attn_v, self.attn_output = (nn.Linear(width, width, bias=False) for _ in "qkvo")
        self.ffn_gate, self.ffn_up = (nn.Linear(width, config.feed_forward, bias=False) for _ in "gu")
        self.ffn_down = nn.Linear(config.feed_forward, width, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, rotated keys and values: [rows, heads, tokens, head_width]."""
        x = self.attn_norm(x)
        q, k, v = (
            matrix(x).unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)
            for matrix in (self.attn_q, self.attn_k, self.attn_v)
        )
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's result and the feed-forward part to the residual stream."""
        x = x + self.attn_output(attended.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Run the layer over whole rows."""
        q, k, v = self.project(x, cos, sin)
        return self.finish(x, attend(q, k, v, mask))


class Model(nn.Module):
    """The transformer; embeddings are tied to the output head, as in many small models."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.width)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.output_norm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.exit_norm = nn.RMSNorm(config.width, config.norm_epsilon) if config.exit_layer else None
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                shrink = (2 * config.num_layers) ** -0.5 if "output" in name or "down" in name else 1.0
                nn.init.normal_(parameter, std=shrink * (0.02 if "embd" in name else parameter.shape[1] ** -0.5))

    def head(self, x: Tensor) -> Tensor:
        """Return logits of normed states."""
        return F.linear(x, self.token_embd.weight)

    def forward(self, ids: Tensor, documents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return final states (normed) and exit states (normed, if there is an exit) of packed rows."""
        width = ids.shape[1]
        cos, sin = rotations(self.config, torch.arange(width))
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        mask = ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]
        x = self.token_embd(ids)
        early = None
        for number, block in enumerate(self.blk, start=1):
            x = block(x, cos, sin, mask)
            if self.exit_norm is not None and number == self.config.exit_layer:
                early = self.exit_norm(x)
        return self.output_norm(x), early


def draft_of(target: Model, num_layers: int) -> Model:
    """Return the target's exit as a model of its own: its first layers, exit norm and head, all copied."""
    config = target.config
    draft = Model(Config(**{**asdict(config), "num_layers": num_layers, "exit_layer": 0}))
    state = target.state_dict()
    state["output_norm.weight"] = state["exit_norm.weight"]
    draft.load_state_dict({name: state[name] for name in draft.state_dict()})
    return draft


def save(model: Model, path: Path, **extra: object) -> None:
    """Write a checkpoint in one move, so that a kill never leaves half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save({"config": asdict(model.config), "model": model.state_dict(), **extra}, temporary)
    temporary.replace(path)


def load(path: Path) -> tuple[Model, dict[str, object]]:
    """Read a checkpoint; returns the model and everything saved beside it."""
    saved = torch.load(path, weights_only=True)
    model = Model(Config(**saved["config"]))
    model.load_state_dict(saved["model"])
    return model, saved
