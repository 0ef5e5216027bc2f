"""What a hop costs beyond the engine's own compute: `python -m tests.node.overhead` prints p50 and p99.

A plain ring of 3 shards on loopback, each a daemon and a worker of its own, f16 states of 4,096 values; a pass crosses
N + 1 = 4 links. Per hop: (time of the pass at the owner - the stages' own times) / 4.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.config import NodeConfig
from dsdnode.engine.gguf_header import FLOAT32, STRING, UINT32, Value, read_header
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.gguf_writer import NewTensor, write_gguf
from dsdnode.models import demo_target
from dsdnode.node.drafter.reply import Reply
from dsdnode.node.node import Node
from dsdnode.speculation.actions import Emit
from dsdnode.speculation.events import PassEvent
from tests.node.processes import swarm

WIDTH, HEADS, HEAD, FEED_FORWARD, NUM_LAYERS = 4096, 4, 128, 64, 3
NUM_HOPS = NUM_LAYERS + 1


def write_wide_model(path: Path) -> None:
    """The demo's tokenizer on zero weights and random embeddings: it repeats the last token, at full width."""
    source = read_header(demo_target())
    metadata = {key: value for key, value in source.metadata.items() if key.startswith("tokenizer.")}
    vocab_size = len(metadata["tokenizer.ggml.tokens"].data)  # type: ignore[arg-type]
    metadata |= {"general.architecture": Value(STRING, "llama"), "general.name": Value(STRING, "wide")}
    numbers = {
        "block_count": NUM_LAYERS, "context_length": 4096, "embedding_length": WIDTH, "rope.dimension_count": HEAD,
        "feed_forward_length": FEED_FORWARD, "attention.head_count": HEADS, "attention.key_length": HEAD,
        "attention.value_length": HEAD,
    }  # fmt: skip
    metadata |= {f"llama.{key}": Value(UINT32, number) for key, number in numbers.items()}
    metadata["llama.attention.layer_norm_rms_epsilon"] = Value(FLOAT32, 1e-5)
    inner = HEADS * HEAD
    shapes = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, inner), "attn_k": (WIDTH, inner),
              "attn_v": (WIDTH, inner), "attn_output": (inner, WIDTH), "ffn_gate": (WIDTH, FEED_FORWARD),
              "ffn_up": (WIDTH, FEED_FORWARD), "ffn_down": (FEED_FORWARD, WIDTH)}  # fmt: skip
    embeddings = np.random.default_rng(0).standard_normal((vocab_size, WIDTH)).astype(np.float16)
    tensors = [
        NewTensor("token_embd.weight", (WIDTH, vocab_size), Type.F16, data=embeddings.tobytes()),
        NewTensor("output_norm.weight", (WIDTH,), Type.F32, data=np.ones(WIDTH, np.float32).tobytes()),
    ]
    for layer in range(NUM_LAYERS):
        for name, shape in shapes.items():
            kind = Type.F32 if name.endswith("norm") else Type.F16
            tensors.append(NewTensor(f"blk.{layer}.{name}.weight", shape, kind))
    with demo_target().open("rb") as file:
        write_gguf(path, metadata, tensors, file)


async def passes_of(join: str, folder: Path, num_tokens: int) -> list[PassEvent]:
    """Every pass of a plain reply whose owner runs in this process."""
    config = NodeConfig(
        roles=("drafter",), listen="tcp://127.0.0.1:0", joins=(join,), data_dir=folder / "owner", wire="f16", threads=1
    )
    replies: list[Reply] = []
    run = Reply.run

    def keeping(reply: Reply) -> AsyncGenerator[Emit, None]:
        replies.append(reply)
        return run(reply)

    Reply.run = keeping  # type: ignore[method-assign, assignment]
    node = await Node.start(config)
    client = await Client.connect([node.join])
    try:
        request = GenerateRequest(prompt_tokens=(300, 400, 500), max_tokens=num_tokens, draft_max=0)
        tokens = [
            token async for event in client.generate(request) if isinstance(event, Piece) for token in event.tokens
        ]
        assert len(tokens) == num_tokens
        return list(replies[-1]._machine.log.passes)
    finally:
        await client.close()
        await node.close()


def report(passes: list[PassEvent], warm_up: int) -> None:
    hops_ms = [1e3 * (one.judged_s - one.sent_s - sum(one.stage_s)) / NUM_HOPS for one in passes[warm_up:]]
    engines_ms = [1e3 * sum(one.stage_s) / NUM_LAYERS for one in passes[warm_up:]]
    p50, p99 = np.percentile(hops_ms, [50, 99])
    print(f"{len(hops_ms)} passes of {NUM_HOPS} hops; a hop beyond compute: p50 {p50:.2f} ms, p99 {p99:.2f} ms; "
          f"an engine's own time: p50 {np.percentile(engines_ms, 50):.2f} ms")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--warm-up", type=int, default=20)
    args = parser.parse_args()
    set_up("warning", "auto")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_wide_model(folder / "wide.gguf")
        with swarm(folder) as made:
            join = made.start("boot", "--role", "bootstrap").join
            for i in range(NUM_LAYERS):
                made.start(f"s{i}", "--role", "shard", "-m", str(folder / "wide.gguf"), "--layers", f"{i}:{i + 1}",
                           "--threads", "1", "--join", join)  # fmt: skip
            for daemon in made.daemons.values():
                assert daemon.ready
            report(asyncio.run(passes_of(join, folder, args.tokens)), args.warm_up)


if __name__ == "__main__":
    main()
