"""Shards that offer layers of one model of eight."""

from __future__ import annotations

from typing import Any

import msgspec

from dsdnode.wire.records import ProviderRecord, RoundTrip

replace = msgspec.structs.replace


def shard(
    who: int, start: int, end: int, num_layers: int = 8, free: int = 1, fixed_ms: float = 0.0, **more: Any
) -> ProviderRecord:
    record = ProviderRecord(
        public_key=bytes([who]) * 32,
        addresses=(f"tcp://127.0.0.1:{1000 + who}",),
        role="shard",
        weights_hash="ab" * 32,
        architecture="fake",
        model_name="demo-target",
        start=start,
        end=end,
        num_layers=num_layers,
        tokenizer_hash="cd" * 32,
        vocab_size=8,
        width=8,
        context_tokens=8,
        free_sessions=free,
        fixed_ms=fixed_ms,
    )
    return replace(record, **more)


def trips(**rtt_ms: float) -> tuple[RoundTrip, ...]:
    """`trips(p2=3.0)`: 3 ms to peer 2."""
    return tuple(RoundTrip(bytes_of(int(who[1:]))[:4], ms) for who, ms in rtt_ms.items())


def swarm(*ranges: tuple[int, int], num_layers: int = 8) -> list[ProviderRecord]:
    return [shard(who, start, end, num_layers) for who, (start, end) in enumerate(ranges, start=1)]


def bytes_of(who: int) -> bytes:
    return shard(who, 0, 1).peer_id
